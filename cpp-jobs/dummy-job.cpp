// A job that does a little work and then succeeds or fails at random.
//
//   dummy-job [--success-rate RATE] [--work-ms MS] [WORD...]
//   data: {"message": "Hello", "successRate": 0.5, "workMs": 50}
//
// It prints the message, else its words. A rate of 0 always fails, with the same error; a rate of 1 never does.

#include "jobber.hpp"

#include <random>

namespace {

struct options {
    std::string message;
    double success_rate = 0.5;
    int work_ms = 50;
};

const char* const errors[] = {
    "connection to database db-1.internal:5432 timed out after 30 s",
    "couldn't read input part 7: checksum mismatch",
    "no space left on device while writing /var/spool/dummy/out.bin",
    "upstream answered 503 Service Unavailable",
};

double to_number(const std::string& option, const std::string& text) {
    try {
        return jobber::json::parse(text).as<double>();
    } catch (const jobber::json_error&) {
        jobber::fail(option + " needs a number, not \"" + text + "\"", jobber::exit_code::usage);
    }
}

options read_options() {
    const jobber::json& data = jobber::data();
    options options;
    if (data.is_object()) {
        options.message = data.value("message", "");
        options.success_rate = data.value("successRate", options.success_rate);
        options.work_ms = data.value("workMs", options.work_ms);
    }
    std::string words;
    const auto& arguments = jobber::arguments();
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const bool is_option = arguments[i] == "--success-rate" || arguments[i] == "--work-ms";
        if (!is_option) {
            words += (words.empty() ? "" : " ") + arguments[i];
            continue;
        }
        const double number = to_number(arguments[i], i + 1 < arguments.size() ? arguments[i + 1] : "");
        if (arguments[i] == "--success-rate") {
            options.success_rate = number;
        } else {
            options.work_ms = jobber::json(number).as<int>();
        }
        ++i;
    }
    if (options.message.empty()) {
        options.message = words.empty() ? "dummy-job is done" : words;
    }
    if (!(options.success_rate >= 0 && options.success_rate <= 1)) {
        jobber::fail("the success rate must be between 0 and 1", jobber::exit_code::usage);
    }
    return options;
}

/// Keeps one core busy, so that CPU time and concurrency have something to show.
void work(std::chrono::milliseconds duration) {
    const auto end = std::chrono::steady_clock::now() + duration;
    volatile double sum = 0;
    while (std::chrono::steady_clock::now() < end) {
        jobber::throw_if_cancelled();
        for (int i = 1; i < 10000; ++i) {
            sum = sum + 1.0 / i;
        }
    }
}

} // namespace

int main(int argc, char** argv) {
    return jobber::run(argc, argv, [] {
        const options options = read_options();
        work(std::chrono::milliseconds(options.work_ms));

        std::mt19937 random(std::random_device{}());
        const double drawn = std::uniform_real_distribution<double>(0, 1)(random);
        if (drawn >= options.success_rate) {
            const std::size_t which = options.success_rate > 0 ? random() % std::size(errors) : 0;
            jobber::fail(errors[which]);
        }
        std::cout << options.message << '\n';
    });
}

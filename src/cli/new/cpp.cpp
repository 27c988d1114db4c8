// @JOB@: greets those whom its arguments name.
//
//   arguments: names            data: {"greeting": "Good day"}            result: {"greeted": 2}

#include "jobber.hpp"

int main(int argc, char** argv) {
    return jobber::run(argc, argv, [] {
        const std::vector<std::string>& names = jobber::arguments();
        if (names.empty()) {
            // What can't succeed in another attempt ends with another exit code than what can.
            jobber::fail("there is nobody to greet: give names as arguments", jobber::exit_code::usage);
        }
        const std::string greeting = jobber::data().is_object() ? jobber::data().value("greeting", "Hello") : "Hello";

        std::size_t greeted = 0;
        for (const std::string& name : names) {
            jobber::throw_if_cancelled();
            std::cout << greeting << ", " << name << "!" << std::endl;
            ++greeted;
            jobber::progress(100.0 * static_cast<double>(greeted) / static_cast<double>(names.size()), name);
        }
        jobber::result(jobber::json::object({{"greeted", greeted}}));
    });
}

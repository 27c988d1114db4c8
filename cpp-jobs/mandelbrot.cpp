// Draws the Mandelbrot set into a PPM image (P6) on all of the job's cores.
//
//   mandelbrot [--width N] [--height N] [--iterations N] [--output FILE]
//   data: {"width": 1600, "height": 1200, "iterations": 1000, "output": "/data/set.ppm"}
//
// Arguments win over data. Without an output the image goes to the system's temporary directory, named by the job's
// id: the working directory is removed after the job. The image appears under its name only when it is complete.

#include "jobber.hpp"

#include <cinttypes>
#include <filesystem>

namespace {

struct options {
    int width = 1600;
    int height = 1200;
    int iterations = 5000;
    std::string output;
};

/// The job's id as part of a file name, the process's id outside Jobber.
std::string file_tag() {
    std::string tag = jobber::under_jobber() ? jobber::job_id() : std::to_string(getpid());
    std::replace_if(tag.begin(), tag.end(), [](unsigned char c) { return !std::isalnum(c) && c != '-'; }, '_');
    return tag;
}

int to_count(const std::string& option, const std::string& text) {
    try {
        return jobber::json::parse(text).as<int>();
    } catch (const jobber::json_error&) {
        jobber::fail(option + " needs a whole number, not \"" + text + "\"", jobber::exit_code::usage);
    }
}

options read_options() {
    options options;
    const auto& arguments = jobber::arguments();
    const jobber::json& data = jobber::data();
    if (!data.is_null()) {
        data.members();
        options.width = data.value("width", options.width);
        options.height = data.value("height", options.height);
        options.iterations = data.value("iterations", options.iterations);
        options.output = data.value("output", "");
    }
    for (std::size_t i = 0; i < arguments.size(); i += 2) {
        const std::string& option = arguments[i];
        const std::string value = i + 1 < arguments.size() ? arguments[i + 1] : "";
        if (option == "--width") {
            options.width = to_count(option, value);
        } else if (option == "--height") {
            options.height = to_count(option, value);
        } else if (option == "--iterations") {
            options.iterations = to_count(option, value);
        } else if (option == "--output" && !value.empty()) {
            options.output = value;
        } else {
            jobber::fail("\"" + option + "\" isn't understood; " +
                             "usage: mandelbrot [--width N] [--height N] [--iterations N] [--output FILE]",
                         jobber::exit_code::usage);
        }
    }
    const auto check = [](const char* name, int value, int most) {
        if (value < 1 || value > most) {
            jobber::fail(std::string(name) + " must be between 1 and " + std::to_string(most) + ", not " +
                             std::to_string(value),
                         jobber::exit_code::usage);
        }
    };
    check("width", options.width, 100000);
    check("height", options.height, 100000);
    check("iterations", options.iterations, 10000000);
    if (options.output.empty()) {
        options.output = std::filesystem::temp_directory_path() / ("mandelbrot-" + file_tag() + ".ppm");
    }
    return options;
}

/// A file that gets its name when it is complete, and is removed when it never is.
class new_file {
public:
    explicit new_file(const std::string& path) : path_(path), partial_(path + ".part-" + file_tag()) {
        unlink(partial_.c_str()); // a killed attempt's
        descriptor_ = open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor_ < 0) {
            fail("create", partial_);
        }
    }
    new_file(const new_file&) = delete;
    new_file& operator=(const new_file&) = delete;
    ~new_file() {
        if (descriptor_ >= 0) {
            close(descriptor_);
        }
        if (!partial_.empty()) {
            unlink(partial_.c_str());
        }
    }

    /// Writes at an offset; several threads may do so at once.
    void write(std::string_view bytes, std::uint64_t offset) const {
        while (!bytes.empty()) {
            const ssize_t written = pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
            if (written < 0 && errno != EINTR) {
                fail("write", partial_);
            }
            const auto done = static_cast<std::size_t>(std::max<ssize_t>(written, 0));
            bytes.remove_prefix(done);
            offset += done;
        }
    }

    /// Gives the file its name.
    void finish() {
        const int closed = close(std::exchange(descriptor_, -1));
        if (closed != 0 || rename(partial_.c_str(), path_.c_str()) != 0) {
            fail("finish", path_);
        }
        partial_.clear();
    }

private:
    [[noreturn]] static void fail(const char* what, const std::string& path) {
        const int error = errno;
        jobber::fail(std::string("couldn't ") + what + " " + path + ": " + std::strerror(error));
    }

    std::string path_;
    std::string partial_;
    int descriptor_ = -1;
};

/// FNV-1a, 64 bits.
std::uint64_t checksum(std::string_view bytes, std::uint64_t hash = 14695981039346656037U) {
    for (const char byte : bytes) {
        hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211U;
    }
    return hash;
}

/// How many steps the point stays within the circle of radius 2, `limit` if it doesn't leave.
int escape(double x, double y, int limit) {
    double re = 0;
    double im = 0;
    for (int step = 0; step < limit; ++step) {
        const double re2 = re * re;
        const double im2 = im * im;
        if (re2 + im2 > 4) {
            return step;
        }
        im = 2 * re * im + y;
        re = re2 - im2 + x;
    }
    return limit;
}

/// One row as RGB bytes. Colours are whole-number arithmetic: the same image on any number of cores.
std::string draw_row(const options& options, int row) {
    const double scale = 3.0 / std::min(options.width, options.height * 4 / 3 + 1);
    const double y = (row - options.height / 2.0) * scale;
    std::string pixels;
    pixels.reserve(static_cast<std::size_t>(options.width) * 3);
    for (int column = 0; column < options.width; ++column) {
        const double x = (column - options.width / 2.0) * scale - 0.65;
        const int steps = escape(x, y, options.iterations);
        const bool inside = steps == options.iterations;
        for (const int speed : {9, 5, 3}) {
            const int wave = (steps * speed) % 512;
            pixels += static_cast<char>(inside ? 0 : (wave < 256 ? wave : 511 - wave));
        }
    }
    return pixels;
}

/// Draws all rows into the file; returns the checksum over the rows' checksums, in order.
std::uint64_t draw(const options& options, const new_file& file, std::uint64_t header_size) {
    std::vector<std::uint64_t> checksums(static_cast<std::size_t>(options.height));
    std::atomic<int> next_row{0};
    std::atomic<int> rows_done{0};
    std::exception_ptr problem;
    std::mutex problem_guard;

    const auto draw_rows = [&] {
        try {
            for (int row = next_row++; row < options.height; row = next_row++) {
                jobber::throw_if_cancelled();
                const std::string pixels = draw_row(options, row);
                file.write(pixels, header_size + static_cast<std::uint64_t>(row) * pixels.size());
                checksums[static_cast<std::size_t>(row)] = checksum(pixels);
                const int done = ++rows_done;
                jobber::progress(100.0 * done / options.height,
                                 std::to_string(done) + " of " + std::to_string(options.height) + " rows");
            }
        } catch (...) {
            const std::lock_guard<std::mutex> lock(problem_guard);
            problem = std::current_exception();
            next_row = options.height;
        }
    };

    std::vector<std::thread> threads;
    for (int i = 0; i < std::min(jobber::cores(), options.height); ++i) {
        threads.emplace_back(draw_rows);
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    if (problem) {
        std::rethrow_exception(problem);
    }
    std::uint64_t total = checksum("");
    for (const std::uint64_t row : checksums) {
        total = checksum(std::string_view(reinterpret_cast<const char*>(&row), sizeof row), total);
    }
    return total;
}

} // namespace

int main(int argc, char** argv) {
    return jobber::run(argc, argv, [] {
        const auto start = std::chrono::steady_clock::now();
        const options options = read_options();
        jobber::throw_if_cancelled();

        const std::string header =
            "P6\n" + std::to_string(options.width) + " " + std::to_string(options.height) + "\n255\n";
        new_file file(options.output);
        file.write(header, 0);
        const std::uint64_t sum = draw(options, file, header.size());
        file.finish();

        char hex[17];
        std::snprintf(hex, sizeof hex, "%016" PRIx64, sum);
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        jobber::result(jobber::json::object({
            {"path", std::filesystem::absolute(options.output).string()},
            {"width", options.width},
            {"height", options.height},
            {"iterations", options.iterations},
            {"seconds", std::round(elapsed.count() * 1000) / 1000},
            {"checksum", hex},
        }));
    });
}

// Draws the Mandelbrot set into an image on all of the job's cores.
//
//   mandelbrot [--width N] [--height N] [--iterations N] [--output FILE]
//   data: {"width": 1600, "height": 1200, "iterations": 1000, "output": "/data/set.ppm"}
//
// Arguments win over data. Without an output the image is mandelbrot.png among the job's files, which Jobber keeps with
// it; outside Jobber it goes to the system's temporary directory. A name that ends with .png gets a PNG, any other one a
// PPM (P6). The image appears under its name only when it is complete.

#include "jobber.hpp"

#include <cinttypes>
#include <filesystem>
#include <memory>

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
    if (options.output.empty() && !jobber::output_dir().empty()) {
        options.output = std::filesystem::path(jobber::output_dir()) / "mandelbrot.png";
    } else if (options.output.empty()) {
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

/// How an image lies in its file: each row has its place, so that threads write them in any order.
class image_format {
public:
    virtual ~image_format() = default;
    /// What comes before the rows.
    virtual std::string header() const = 0;
    /// How many bytes a row takes.
    virtual std::uint64_t row_size() const = 0;
    /// A row as it lies in the file.
    virtual std::string row(const std::string& pixels, int number) = 0;
    /// What comes after the rows, once all of them were made.
    virtual std::string trailer() const = 0;
};

class ppm : public image_format {
public:
    explicit ppm(const options& options) : width_(options.width), height_(options.height) {}
    std::string header() const override {
        return "P6\n" + std::to_string(width_) + " " + std::to_string(height_) + "\n255\n";
    }
    std::uint64_t row_size() const override { return static_cast<std::uint64_t>(width_) * 3; }
    std::string row(const std::string& pixels, int) override { return pixels; }
    std::string trailer() const override { return {}; }

private:
    int width_;
    int height_;
};

/// PNG whose rows are not compressed: one chunk for each, so that their sizes are known before they are drawn.
class png : public image_format {
public:
    explicit png(const options& options)
        : width_(options.width), height_(options.height), line_(static_cast<std::uint64_t>(options.width) * 3 + 1),
          blocks_((line_ + block_limit - 1) / block_limit), sums_(static_cast<std::size_t>(options.height)) {}

    std::string header() const override {
        // Eight bits a colour, RGB.
        const std::string size = big_endian(static_cast<std::uint32_t>(width_)) +
                                 big_endian(static_cast<std::uint32_t>(height_)) + std::string("\x08\x02\0\0\0", 5);
        return "\x89PNG\r\n\x1a\n" + chunk("IHDR", size) + chunk("IDAT", "\x78\x01");
    }

    std::uint64_t row_size() const override { return chunk_overhead + blocks_ * block_overhead + line_; }

    std::string row(const std::string& pixels, int number) override {
        // No filter.
        const std::string line = '\0' + pixels;
        sums_[static_cast<std::size_t>(number)] = adler(line);
        std::string stored;
        for (std::uint64_t at = 0; at < line.size(); at += block_limit) {
            const auto length = static_cast<std::uint16_t>(std::min<std::uint64_t>(block_limit, line.size() - at));
            stored += '\0';
            for (const unsigned word : {static_cast<unsigned>(length), 0xffffU - length}) {
                stored += static_cast<char>(word & 0xff);
                stored += static_cast<char>(word >> 8);
            }
            stored.append(line, at, length);
        }
        return chunk("IDAT", stored);
    }

    std::string trailer() const override {
        // The sum of all lines from the sums of each.
        std::uint64_t a = 1;
        std::uint64_t b = 0;
        for (const auto& [line_a, line_b] : sums_) {
            b = (b + line_b + (line_ % modulus) * (a + modulus - 1)) % modulus;
            a = (a + line_a + modulus - 1) % modulus;
        }
        // An empty last block ends the data.
        const std::string end("\x01\0\0\xff\xff", 5);
        return chunk("IDAT", end + big_endian(static_cast<std::uint32_t>(b << 16 | a))) + chunk("IEND", "");
    }

private:
    static constexpr std::uint64_t block_limit = 65535;
    static constexpr std::uint64_t block_overhead = 5;
    static constexpr std::uint64_t chunk_overhead = 12;
    static constexpr std::uint64_t modulus = 65521;

    static std::string big_endian(std::uint32_t number) {
        std::string bytes;
        for (const int shift : {24, 16, 8, 0}) {
            bytes += static_cast<char>(number >> shift & 0xff);
        }
        return bytes;
    }

    /// CRC-32, as of IEEE 802.3.
    static std::uint32_t crc(std::string_view bytes) {
        static const std::vector<std::uint32_t> table = [] {
            std::vector<std::uint32_t> entries(256);
            for (std::uint32_t n = 0; n < 256; ++n) {
                std::uint32_t entry = n;
                for (int bit = 0; bit < 8; ++bit) {
                    entry = (entry & 1) != 0 ? 0xedb88320U ^ (entry >> 1) : entry >> 1;
                }
                entries[n] = entry;
            }
            return entries;
        }();
        std::uint32_t sum = 0xffffffffU;
        for (const char byte : bytes) {
            sum = table[(sum ^ static_cast<unsigned char>(byte)) & 0xff] ^ (sum >> 8);
        }
        return ~sum;
    }

    static std::pair<std::uint64_t, std::uint64_t> adler(std::string_view bytes) {
        std::uint64_t a = 1;
        std::uint64_t b = 0;
        for (const char byte : bytes) {
            a += static_cast<unsigned char>(byte);
            b += a;
            // Long before the sums are too large.
            if (b >= std::uint64_t{1} << 56) {
                b %= modulus;
            }
        }
        return {a % modulus, b % modulus};
    }

    static std::string chunk(const std::string& kind, const std::string& content) {
        const std::string summed = kind + content;
        return big_endian(static_cast<std::uint32_t>(content.size())) + summed + big_endian(crc(summed));
    }

    int width_;
    int height_;
    std::uint64_t line_;
    std::uint64_t blocks_;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> sums_;
};

std::unique_ptr<image_format> format_of(const options& options) {
    const std::string end = std::filesystem::path(options.output).extension();
    if (end == ".png") {
        return std::make_unique<png>(options);
    }
    return std::make_unique<ppm>(options);
}

/// Draws all rows into the file; returns the checksum over the rows' checksums, in order.
std::uint64_t draw(const options& options, const new_file& file, image_format& format) {
    const std::uint64_t header_size = format.header().size();
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
                file.write(format.row(pixels, row), header_size + static_cast<std::uint64_t>(row) * format.row_size());
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

        const std::unique_ptr<image_format> format = format_of(options);
        const std::string header = format->header();
        new_file file(options.output);
        file.write(header, 0);
        const std::uint64_t sum = draw(options, file, *format);
        file.write(format->trailer(), header.size() + static_cast<std::uint64_t>(options.height) * format->row_size());
        file.finish();

        char hex[17];
        std::snprintf(hex, sizeof hex, "%016" PRIx64, sum);
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        // What is kept with the job is found by its name: the directory goes.
        const std::filesystem::path path = std::filesystem::absolute(options.output);
        const bool is_kept = !jobber::output_dir().empty() && path.parent_path() == jobber::output_dir();
        jobber::result(jobber::json::object({
            {is_kept ? "file" : "path", is_kept ? path.filename().string() : path.string()},
            {"width", options.width},
            {"height", options.height},
            {"iterations", options.iterations},
            {"seconds", std::round(elapsed.count() * 1000) / 1000},
            {"checksum", hex},
        }));
    });
}

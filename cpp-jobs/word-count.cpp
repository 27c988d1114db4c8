// Counts lines, words and bytes, and the most frequent words.
//
//   word-count [--top N] FILE...     files, "-" for standard input as text
//   data: {"path": "/data/book.txt", "top": 10} or {"text": "to be or not to be"}
//
// Without files, standard input that isn't a JSON object is the text. A word is what whitespace separates, as
// for wc; for the most frequent ones, punctuation is left out and ASCII letters are lower-cased.

#include "jobber.hpp"

#include <fstream>
#include <unordered_map>

namespace {

constexpr std::size_t longest_top_word = 64;

class counter {
public:
    void add(std::string_view bytes) {
        bytes_ += bytes.size();
        for (const char c : bytes) {
            lines_ += c == '\n';
            const bool space = c == ' ' || (c >= '\t' && c <= '\r');
            words_ += !space && !in_word_;
            in_word_ = !space;
            add_to_top_word(static_cast<unsigned char>(c));
        }
    }

    jobber::json summary(std::size_t top) {
        add_to_top_word(' ');
        std::vector<std::pair<std::string, std::int64_t>> frequent(frequency_.begin(), frequency_.end());
        const auto more = [](const auto& left, const auto& right) {
            return left.second != right.second ? left.second > right.second : left.first < right.first;
        };
        std::sort(frequent.begin(), frequent.end(), more);
        frequent.resize(std::min(top, frequent.size()));

        jobber::json words = jobber::json::array();
        for (const auto& [word, count] : frequent) {
            words.push(jobber::json::object({{"word", word}, {"count", count}}));
        }
        return jobber::json::object({{"lines", lines_}, {"words", words_}, {"bytes", bytes_}, {"top", words}});
    }

private:
    void add_to_top_word(unsigned char c) {
        if (std::isalnum(c) || c >= 0x80 || (c == '\'' && !word_.empty())) {
            if (word_.size() <= longest_top_word) {
                word_ += static_cast<char>(c < 0x80 ? std::tolower(c) : c);
            }
            return;
        }
        while (!word_.empty() && word_.back() == '\'') {
            word_.pop_back();
        }
        if (!word_.empty() && word_.size() <= longest_top_word) {
            ++frequency_[word_];
        }
        word_.clear();
    }

    std::uint64_t lines_ = 0;
    std::uint64_t words_ = 0;
    std::uint64_t bytes_ = 0;
    bool in_word_ = false;
    std::string word_;
    std::unordered_map<std::string, std::int64_t> frequency_;
};

void add_file(counter& counter, const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const auto size = static_cast<double>(file.tellg());
    file.seekg(0);
    std::vector<char> buffer(1 << 16);
    double done = 0;
    while (file.good()) {
        jobber::throw_if_cancelled();
        file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
        counter.add({buffer.data(), static_cast<std::size_t>(file.gcount())});
        done += static_cast<double>(file.gcount());
        if (size > 0) {
            jobber::progress(100 * done / size, path);
        }
    }
    if (!file.eof()) {
        jobber::fail("couldn't read " + path + ": " + std::strerror(errno));
    }
}

/// Standard input as an object, null if it is plain text.
jobber::json data_object() {
    try {
        return jobber::data().is_object() ? jobber::data() : jobber::json();
    } catch (const jobber::json_error&) {
        return {};
    }
}

/// Counts what the data names, or standard input itself. Returns how many top words are wanted.
std::size_t add_input(counter& counter, std::size_t top) {
    const jobber::json data = data_object();
    if (data.is_null()) {
        counter.add(jobber::input());
    } else if (data.contains("path")) {
        add_file(counter, data.at("path").as<std::string>());
    } else if (data.contains("text")) {
        counter.add(data.at("text").as<std::string>());
    } else {
        jobber::fail("the data needs \"path\" or \"text\"", jobber::exit_code::permanent);
    }
    return data.value("top", top);
}

} // namespace

int main(int argc, char** argv) {
    return jobber::run(argc, argv, [] {
        std::size_t top = 10;
        std::vector<std::string> paths;
        const auto& arguments = jobber::arguments();
        for (std::size_t i = 0; i < arguments.size(); ++i) {
            if (arguments[i] == "--top") {
                const std::string number = i + 1 < arguments.size() ? arguments[i + 1] : "";
                try {
                    top = jobber::json::parse(number).as<std::size_t>();
                } catch (const jobber::json_error&) {
                    jobber::fail("--top needs a whole number, not \"" + number + "\"", jobber::exit_code::usage);
                }
                ++i;
            } else {
                paths.push_back(arguments[i]);
            }
        }

        counter counter;
        if (paths.empty()) {
            top = add_input(counter, top);
        }
        for (const std::string& path : paths) {
            if (path == "-") {
                counter.add(jobber::input());
            } else {
                add_file(counter, path);
            }
        }
        jobber::result(counter.summary(top));
    });
}

// jobber.hpp: what a Jobber job wants to know and say, in one header: arguments and data in; progress, result and
// error text out; cancellation by SIGTERM. C++17, POSIX, no dependencies.
//
// Everything also works outside Jobber: unset variables get sensible defaults, directives are plain lines on
// stdout, error text goes to stderr only. docs/development/job-development.md describes the contract.

#ifndef JOBBER_HPP
#define JOBBER_HPP

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <iostream>
#include <limits>
#include <locale>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

#include <cxxabi.h>
#include <fcntl.h>
#include <unistd.h>

namespace jobber {

// ---------------------------------------------------------------------------------------------------------------
// JSON
// ---------------------------------------------------------------------------------------------------------------

/// Malformed JSON, or a JSON value of another type than asked for. Escaping from `run` it ends the job with
/// `exit_code::permanent`, because a retry gets the same data.
class json_error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// A JSON value. Integers that fit are exact (`int64_t`), other numbers are `double`; objects keep the order in
/// which their members were set.
class json {
public:
    using array_type = std::vector<json>;
    using object_type = std::vector<std::pair<std::string, json>>;

    /// Deepest nesting that `parse` accepts, so that hostile data can't exhaust the stack.
    static constexpr int max_depth = 256;

    /// Null.
    json() = default;
    /// Null.
    json(std::nullptr_t) {}
    /// A string.
    json(std::string text) : value_(std::move(text)) {}
    /// A string.
    json(std::string_view text) : value_(std::string(text)) {}
    /// A string.
    json(const char* text) : value_(std::string(text)) {}

    /// A boolean or a number; an unsigned value beyond `int64_t` becomes a `double`.
    template <class T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
    json(T value) {
        if constexpr (std::is_same_v<T, bool>) {
            value_ = value;
        } else if constexpr (std::is_floating_point_v<T>) {
            value_ = static_cast<double>(value);
        } else if constexpr (std::is_unsigned_v<T> && sizeof(T) >= sizeof(std::int64_t)) {
            if (value > static_cast<T>(std::numeric_limits<std::int64_t>::max())) {
                value_ = static_cast<double>(value);
            } else {
                value_ = static_cast<std::int64_t>(value);
            }
        } else {
            value_ = static_cast<std::int64_t>(value);
        }
    }

    /// An array of anything that converts to `json`.
    template <class T>
    json(const std::vector<T>& items) : value_(array_type(items.begin(), items.end())) {}

    /// An array: `json::array({1, "two", nullptr})`.
    static json array(std::initializer_list<json> items = {}) {
        json made;
        made.value_ = array_type(items);
        return made;
    }

    /// An object: `json::object({{"width", 800}, {"name", "x"}})`. The last of equal keys wins.
    static json object(std::initializer_list<std::pair<std::string, json>> members = {}) {
        json made;
        made.value_ = object_type{};
        for (const auto& [key, value] : members) {
            made.set(key, value);
        }
        return made;
    }

    /// Reads one JSON text, complete and nothing after it. Throws `json_error` naming the byte offset.
    static json parse(std::string_view text);

    /// The value as JSON on one line. Bytes that are not UTF-8 become U+FFFD; throws `json_error` for NaN and
    /// infinity, which JSON has no words for.
    std::string dump() const {
        std::string out;
        write(out);
        return out;
    }

    bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
    bool is_bool() const { return std::holds_alternative<bool>(value_); }
    /// A number that is held exactly as `int64_t`.
    bool is_integer() const { return std::holds_alternative<std::int64_t>(value_); }
    bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
    bool is_string() const { return std::holds_alternative<std::string>(value_); }
    bool is_array() const { return std::holds_alternative<array_type>(value_); }
    bool is_object() const { return std::holds_alternative<object_type>(value_); }

    /// The value as `bool`, an integer or floating type, `std::string`, `json` or a `std::vector` of those. Throws
    /// `json_error` where the type differs or the number doesn't fit.
    template <class T>
    T as() const {
        if constexpr (std::is_same_v<T, json>) {
            return *this;
        } else if constexpr (std::is_same_v<T, bool>) {
            return held<bool>("a boolean");
        } else if constexpr (std::is_integral_v<T>) {
            return to_integer<T>();
        } else if constexpr (std::is_floating_point_v<T>) {
            const auto* whole = std::get_if<std::int64_t>(&value_);
            return static_cast<T>(whole ? static_cast<double>(*whole) : held<double>("a number"));
        } else if constexpr (std::is_same_v<T, std::string>) {
            return held<std::string>("a string");
        } else {
            T items;
            for (const json& item : this->items()) {
                items.push_back(item.as<typename T::value_type>());
            }
            return items;
        }
    }

    /// The elements of an array. Throws `json_error` for other types.
    const array_type& items() const { return held<array_type>("an array"); }

    /// The members of an object, in order. Throws `json_error` for other types.
    const object_type& members() const { return held<object_type>("an object"); }

    /// The member `key`, or nullptr if this is no object or has no such member.
    const json* find(std::string_view key) const {
        if (const auto* members = std::get_if<object_type>(&value_)) {
            for (const auto& [name, value] : *members) {
                if (name == key) {
                    return &value;
                }
            }
        }
        return nullptr;
    }

    /// Whether there is a member `key`.
    bool contains(std::string_view key) const { return find(key) != nullptr; }

    /// The member `key`; throws `json_error` if there is none.
    const json& at(std::string_view key) const {
        if (const json* found = find(key)) {
            return *found;
        }
        throw json_error("there is no \"" + std::string(key) + "\" in " + type_name());
    }

    /// The member `key` as `T`, or `fallback` where it is missing or null. A member of another type is a
    /// `json_error` naming the key, never silently the fallback.
    template <class T>
    T value(std::string_view key, T fallback) const {
        const json* found = find(key);
        if (!found || found->is_null()) {
            return fallback;
        }
        try {
            return found->as<T>();
        } catch (const json_error& error) {
            throw json_error("\"" + std::string(key) + "\": " + error.what());
        }
    }

    /// The member `key` as a string, or `fallback` where it is missing or null.
    std::string value(std::string_view key, const char* fallback) const {
        return value<std::string>(key, std::string(fallback));
    }

    /// Adds or replaces a member; null turns into an object first. Returns this value, for chaining.
    json& set(std::string key, json value) {
        if (is_null()) {
            value_ = object_type{};
        }
        auto& members = held<object_type>("an object");
        for (auto& [name, old] : members) {
            if (name == key) {
                old = std::move(value);
                return *this;
            }
        }
        members.emplace_back(std::move(key), std::move(value));
        return *this;
    }

    /// Adds an element; null turns into an array first. Returns this value, for chaining.
    json& push(json value) {
        if (is_null()) {
            value_ = array_type{};
        }
        held<array_type>("an array").push_back(std::move(value));
        return *this;
    }

    /// What this is, with its article: "a string", "an object", "null".
    std::string type_name() const {
        static constexpr const char* names[] = {"null",     "a boolean", "an integer", "a number",
                                                "a string", "an array",  "an object"};
        return names[value_.index()];
    }

    /// Same type and same content; the integer 1 and the double 1.0 differ.
    friend bool operator==(const json& left, const json& right) { return left.value_ == right.value_; }
    friend bool operator!=(const json& left, const json& right) { return !(left == right); }

private:
    class parser;

    template <class T>
    const T& held(const char* wanted) const {
        if (const T* found = std::get_if<T>(&value_)) {
            return *found;
        }
        throw json_error(std::string("expected ") + wanted + ", found " + type_name());
    }

    template <class T>
    T& held(const char* wanted) {
        return const_cast<T&>(static_cast<const json*>(this)->held<T>(wanted));
    }

    template <class T>
    T to_integer() const {
        std::int64_t whole = 0;
        if (const auto* real = std::get_if<double>(&value_)) {
            // 2^63 is exact as a double: everything below it converts without overflow.
            if (std::trunc(*real) != *real || *real < -9223372036854775808.0 || *real >= 9223372036854775808.0) {
                throw json_error("expected an integer, found " + dump());
            }
            whole = static_cast<std::int64_t>(*real);
        } else {
            whole = held<std::int64_t>("an integer");
        }
        bool fits = true;
        if constexpr (std::is_unsigned_v<T>) {
            fits = whole >= 0 && static_cast<std::uint64_t>(whole) <= std::numeric_limits<T>::max();
        } else {
            fits = whole >= std::numeric_limits<T>::min() && whole <= std::numeric_limits<T>::max();
        }
        if (!fits) {
            throw json_error("the number " + std::to_string(whole) + " is out of range");
        }
        return static_cast<T>(whole);
    }

    void write(std::string& out) const;
    static void write_double(std::string& out, double number);
    static void write_string(std::string& out, std::string_view text);
    static std::size_t utf8_length(std::string_view text, std::size_t at);

    std::variant<std::monostate, bool, std::int64_t, double, std::string, array_type, object_type> value_;
};

/// Length of the valid UTF-8 sequence that starts at `at`, 0 if there is none (also for surrogates, overlong forms).
inline std::size_t json::utf8_length(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
    const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
    const unsigned first = byte(at);
    const unsigned second = byte(at + 1);
    if (first < 0x80) {
        return 1;
    }
    if (first >= 0xC2 && first <= 0xDF) {
        return continues(at + 1) ? 2 : 0;
    }
    if (first >= 0xE0 && first <= 0xEF) {
        const bool canonical = !(first == 0xE0 && second < 0xA0) && !(first == 0xED && second > 0x9F);
        return canonical && continues(at + 1) && continues(at + 2) ? 3 : 0;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        const bool canonical = !(first == 0xF0 && second < 0x90) && !(first == 0xF4 && second > 0x8F);
        return canonical && continues(at + 1) && continues(at + 2) && continues(at + 3) ? 4 : 0;
    }
    return 0;
}

inline void json::write(std::string& out) const {
    if (const auto* flag = std::get_if<bool>(&value_)) {
        out += *flag ? "true" : "false";
    } else if (const auto* whole = std::get_if<std::int64_t>(&value_)) {
        out += std::to_string(*whole);
    } else if (const auto* real = std::get_if<double>(&value_)) {
        write_double(out, *real);
    } else if (const auto* text = std::get_if<std::string>(&value_)) {
        write_string(out, *text);
    } else if (const auto* items = std::get_if<array_type>(&value_)) {
        out += '[';
        const char* separator = "";
        for (const json& item : *items) {
            out += separator;
            item.write(out);
            separator = ",";
        }
        out += ']';
    } else if (const auto* members = std::get_if<object_type>(&value_)) {
        out += '{';
        const char* separator = "";
        for (const auto& [key, value] : *members) {
            out += separator;
            write_string(out, key);
            out += ':';
            value.write(out);
            separator = ",";
        }
        out += '}';
    } else {
        out += "null";
    }
}

/// The shortest of 15 to 17 digits that reads back as the same number, whatever the global locale is.
inline void json::write_double(std::string& out, double number) {
    if (!std::isfinite(number)) {
        throw json_error("NaN and infinity can't be written as JSON");
    }
    std::string digits;
    for (int precision = 15; precision <= 17; ++precision) {
        std::ostringstream stream;
        stream.imbue(std::locale::classic());
        stream.precision(precision);
        stream << number;
        digits = stream.str();
        std::istringstream back(digits);
        back.imbue(std::locale::classic());
        double read = 0;
        if (back >> read && read == number) {
            break;
        }
    }
    if (digits.find_first_of(".e") == std::string::npos) {
        digits += ".0";
    }
    out += digits;
}

inline void json::write_string(std::string& out, std::string_view text) {
    static constexpr char hex[] = "0123456789abcdef";
    out += '"';
    for (std::size_t i = 0; i < text.size();) {
        const char c = text[i];
        const std::size_t length = utf8_length(text, i);
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (c == '\n') {
            out += "\\n";
        } else if (c == '\t') {
            out += "\\t";
        } else if (c == '\r') {
            out += "\\r";
        } else if (static_cast<unsigned char>(c) < 0x20) {
            out += "\\u00";
            out += hex[(c >> 4) & 0xF];
            out += hex[c & 0xF];
        } else if (length == 0) {
            out += "\xEF\xBF\xBD";
        } else {
            out.append(text, i, length);
        }
        i += std::max<std::size_t>(length, 1);
    }
    out += '"';
}

/// Recursive descent over RFC 8259, nothing more lenient.
class json::parser {
public:
    explicit parser(std::string_view text) : text_(text) {}

    json document() {
        json parsed = value(0);
        skip_space();
        if (at_ < text_.size()) {
            fail("expected the end of the JSON text");
        }
        return parsed;
    }

private:
    [[noreturn]] void fail(const std::string& problem) const { fail_at(at_, problem + ", found " + found()); }

    [[noreturn]] static void fail_at(std::size_t offset, const std::string& problem) {
        throw json_error("malformed JSON at byte " + std::to_string(offset) + ": " + problem);
    }

    std::string found() const {
        if (at_ >= text_.size()) {
            return "the end of the text";
        }
        const auto c = static_cast<unsigned char>(text_[at_]);
        if (c >= 0x20 && c < 0x7F) {
            return std::string("'") + static_cast<char>(c) + "'";
        }
        char name[16];
        std::snprintf(name, sizeof name, "byte 0x%02x", static_cast<unsigned>(c));
        return name;
    }

    /// The next character, or NUL at the end (a real NUL is never valid either).
    char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

    bool take(char wanted) {
        if (at_ < text_.size() && text_[at_] == wanted) {
            ++at_;
            return true;
        }
        return false;
    }

    void skip_space() {
        while (at_ < text_.size() && std::strchr(" \t\n\r", text_[at_]) && text_[at_] != '\0') {
            ++at_;
        }
    }

    json value(int depth) {
        skip_space();
        const char c = peek();
        if ((c == '{' || c == '[') && depth >= max_depth) {
            fail_at(at_, "nested deeper than " + std::to_string(max_depth) + " levels");
        }
        switch (c) {
        case '{': return object(depth);
        case '[': return array(depth);
        case '"': return json(string());
        case 't': return word("true", json(true));
        case 'f': return word("false", json(false));
        case 'n': return word("null", json());
        default: break;
        }
        if (c == '-' || (c >= '0' && c <= '9')) {
            return number();
        }
        fail("expected a value");
    }

    json word(std::string_view spelling, json meaning) {
        for (const char c : spelling) {
            if (!take(c)) {
                fail("expected '" + std::string(spelling) + "'");
            }
        }
        return meaning;
    }

    json array(int depth) {
        array_type items;
        ++at_;
        skip_space();
        if (!take(']')) {
            do {
                items.push_back(value(depth + 1));
                skip_space();
            } while (take(','));
            if (!take(']')) {
                fail("expected ',' or ']'");
            }
        }
        json made;
        made.value_ = std::move(items);
        return made;
    }

    json object(int depth) {
        const std::size_t start = at_;
        object_type members;
        ++at_;
        skip_space();
        if (!take('}')) {
            do {
                skip_space();
                if (peek() != '"') {
                    fail("expected a member name in double quotes");
                }
                std::string key = string();
                skip_space();
                if (!take(':')) {
                    fail("expected ':'");
                }
                members.emplace_back(std::move(key), value(depth + 1));
                skip_space();
            } while (take(','));
            if (!take('}')) {
                fail("expected ',' or '}'");
            }
        }
        reject_duplicates(members, start);
        json made;
        made.value_ = std::move(members);
        return made;
    }

    static void reject_duplicates(const object_type& members, std::size_t start) {
        std::vector<std::string_view> keys;
        keys.reserve(members.size());
        for (const auto& [key, value] : members) {
            keys.push_back(key);
        }
        std::sort(keys.begin(), keys.end());
        const auto twice = std::adjacent_find(keys.begin(), keys.end());
        if (twice != keys.end()) {
            fail_at(start, "this object has \"" + std::string(*twice) + "\" more than once");
        }
    }

    void digits() {
        if (peek() < '0' || peek() > '9') {
            fail("expected a digit");
        }
        while (peek() >= '0' && peek() <= '9') {
            ++at_;
        }
    }

    json number() {
        const std::size_t start = at_;
        bool whole = true;
        take('-');
        if (!take('0')) {
            digits();
        } else if (peek() >= '0' && peek() <= '9') {
            fail("a number has no leading zero: expected '.', 'e' or its end");
        }
        if (take('.')) {
            whole = false;
            digits();
        }
        if (take('e') || take('E')) {
            whole = false;
            if (!take('+')) {
                take('-');
            }
            digits();
        }
        const std::string_view spelled = text_.substr(start, at_ - start);
        std::int64_t exact = 0;
        if (whole && spelled != "-0" &&
            std::from_chars(spelled.data(), spelled.data() + spelled.size(), exact).ec == std::errc()) {
            return json(exact);
        }
        std::istringstream stream{std::string(spelled)};
        stream.imbue(std::locale::classic());
        double real = 0;
        if (!(stream >> real) || !std::isfinite(real)) {
            fail_at(start, "the number " + std::string(spelled.substr(0, 32)) + " is out of range");
        }
        return json(real);
    }

    std::string string() {
        const std::size_t start = at_++;
        std::string out;
        while (true) {
            if (at_ >= text_.size()) {
                fail_at(start, "this string has no closing quote");
            }
            const char c = text_[at_];
            if (c == '"') {
                ++at_;
                return out;
            }
            if (c == '\\') {
                escape(out);
                continue;
            }
            if (static_cast<unsigned char>(c) < 0x20) {
                fail("a control character in a string must be escaped");
            }
            const std::size_t length = utf8_length(text_, at_);
            if (length == 0) {
                fail("this string isn't valid UTF-8");
            }
            out.append(text_, at_, length);
            at_ += length;
        }
    }

    void escape(std::string& out) {
        static constexpr std::string_view letters = "\"\\/bfnrt";
        static constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
        const std::size_t start = at_++;
        if (take('u')) {
            append_utf8(out, code_point(start));
            return;
        }
        const std::size_t which = at_ < text_.size() ? letters.find(text_[at_]) : std::string_view::npos;
        if (which == std::string_view::npos) {
            fail("expected one of \"\\/bfnrtu after '\\'");
        }
        out += meanings[which];
        ++at_;
    }

    /// What follows `\u`: four hex digits, or a pair of surrogates.
    unsigned code_point(std::size_t start) {
        const unsigned high = four_hex_digits();
        if (high < 0xD800 || high > 0xDFFF) {
            return high;
        }
        if (high <= 0xDBFF && take('\\') && take('u')) {
            const unsigned low = four_hex_digits();
            if (low >= 0xDC00 && low <= 0xDFFF) {
                return 0x10000U + ((high - 0xD800U) << 10U) + (low - 0xDC00U);
            }
        }
        fail_at(start, "half of a surrogate pair");
    }

    unsigned four_hex_digits() {
        unsigned code = 0;
        for (int i = 0; i < 4; ++i) {
            static constexpr std::string_view hex = "0123456789abcdefABCDEF";
            const std::size_t digit = at_ < text_.size() ? hex.find(text_[at_]) : std::string_view::npos;
            if (digit == std::string_view::npos) {
                fail("expected four hex digits after '\\u'");
            }
            code = code * 16 + static_cast<unsigned>(digit < 16 ? digit : digit - 6);
            ++at_;
        }
        return code;
    }

    static void append_utf8(std::string& out, unsigned code) {
        const auto put = [&out](unsigned byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
        if (code < 0x80) {
            put(code);
        } else if (code < 0x800) {
            put(0xC0U | (code >> 6U));
            put(0x80U | (code & 0x3FU));
        } else if (code < 0x10000) {
            put(0xE0U | (code >> 12U));
            put(0x80U | ((code >> 6U) & 0x3FU));
            put(0x80U | (code & 0x3FU));
        } else {
            put(0xF0U | (code >> 18U));
            put(0x80U | ((code >> 12U) & 0x3FU));
            put(0x80U | ((code >> 6U) & 0x3FU));
            put(0x80U | (code & 0x3FU));
        }
    }

    std::string_view text_;
    std::size_t at_ = 0;
};

inline json json::parse(std::string_view text) { return parser(text).document(); }

// ---------------------------------------------------------------------------------------------------------------
// Ending a job
// ---------------------------------------------------------------------------------------------------------------

/// Exit codes that this header uses. Which ones are never retried is a setting of the job; `usage` and `permanent`
/// are meant to be listed there, `failed` and `temporary` are worth a retry.
namespace exit_code {
/// The job did its work.
inline constexpr int completed = 0;
/// It failed in a way that another attempt may not.
inline constexpr int failed = 1;
/// Wrong arguments (EX_USAGE): the next attempt gets the same ones.
inline constexpr int usage = 64;
/// Wrong data or another failure that no retry can mend (EX_DATAERR).
inline constexpr int permanent = 65;
/// Something outside is away for a while (EX_TEMPFAIL): retry later.
inline constexpr int temporary = 75;
} // namespace exit_code

/// Ends the job with an error text and an exit code when it reaches `run`; thrown by `fail`.
class failure : public std::runtime_error {
public:
    /// `text` is what people will read, `code` the process's exit code (1 to 255).
    explicit failure(const std::string& text, int code = exit_code::failed) : std::runtime_error(text), code_(code) {}

    /// The exit code.
    int code() const { return code_; }

private:
    int code_;
};

/// Ends a cancelled job when it reaches `run`; thrown by `throw_if_cancelled`.
class cancelled_error : public failure {
public:
    /// `signal` is the one that asked the job to stop.
    explicit cancelled_error(int signal)
        : failure(std::string("stopped by ") + (signal == SIGINT ? "SIGINT" : "SIGTERM"), 128 + signal) {}
};

/// Fails the job with a text for people. Throws, so that destructors clean up: call it below `run`.
[[noreturn]] inline void fail(const std::string& text, int code = exit_code::failed) { throw failure(text, code); }

// ---------------------------------------------------------------------------------------------------------------
// Cancellation
// ---------------------------------------------------------------------------------------------------------------

namespace detail {

/// The signal that asked the job to stop, 0 before. Lock-free, hence safe to set in a signal handler.
inline std::atomic<int> stop_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler needs a lock-free flag");

inline void on_stop_signal(int signal) { stop_signal.store(signal, std::memory_order_relaxed); }

inline bool catch_stop_signals() {
    for (const int signal : {SIGTERM, SIGINT}) {
        struct sigaction before = {};
        if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_DFL) {
            struct sigaction action = {};
            action.sa_handler = on_stop_signal;
            action.sa_flags = SA_RESTART;
            sigemptyset(&action.sa_mask);
            sigaction(signal, &action, nullptr);
        }
    }
    return true;
}

} // namespace detail

/// Whether Jobber has asked the job to stop (SIGTERM; by hand, Ctrl-C too). SIGKILL follows after a grace period, so
/// ask often and clean up fast. The first call installs the handler: a job that never asks is ended by SIGTERM at
/// once, as any program is. Cheap, and safe from any thread.
inline bool cancelled() {
    static const bool caught = detail::catch_stop_signals();
    return caught && detail::stop_signal.load(std::memory_order_relaxed) != 0;
}

/// Throws `cancelled_error` if the job was asked to stop.
inline void throw_if_cancelled() {
    if (cancelled()) {
        throw cancelled_error(detail::stop_signal.load(std::memory_order_relaxed));
    }
}

/// Sleeps, but not past a request to stop. Returns false if there was one.
inline bool sleep_for(std::chrono::milliseconds duration) {
    const auto end = std::chrono::steady_clock::now() + duration;
    while (!cancelled()) {
        const auto left = end - std::chrono::steady_clock::now();
        if (left <= std::chrono::nanoseconds::zero()) {
            return true;
        }
        std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, std::chrono::milliseconds(20)));
    }
    return false;
}

// ---------------------------------------------------------------------------------------------------------------
// What the job is told
// ---------------------------------------------------------------------------------------------------------------

namespace detail {

inline std::vector<std::string> arguments;
inline std::string program;

inline std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

inline std::optional<int> positive(std::string_view digits) {
    int number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    const bool complete = error == std::errc() && end == digits.data() + digits.size();
    return complete && number >= 1 ? std::optional<int>(number) : std::nullopt;
}

inline std::string read_stdin() {
    std::string text;
    if (isatty(STDIN_FILENO)) {
        return text;
    }
    std::vector<char> buffer(1 << 16);
    while (true) {
        const ssize_t got = read(STDIN_FILENO, buffer.data(), buffer.size());
        if (got > 0) {
            text.append(buffer.data(), static_cast<std::size_t>(got));
        } else if (got == 0 || errno == EBADF) {
            return text;
        } else if (errno != EINTR) {
            throw std::system_error(errno, std::generic_category(), "couldn't read standard input");
        }
    }
}

} // namespace detail

/// The job's arguments, without the program's name. Set by `run`.
inline const std::vector<std::string>& arguments() { return detail::arguments; }

/// All of standard input as it came. Read once, at the first call; empty at a terminal.
inline const std::string& input() {
    static const std::string text = detail::read_stdin();
    return text;
}

/// The job's data: standard input as JSON, null if there is none. Parsed at the first call; throws `json_error`.
inline const json& data() {
    static const json parsed =
        input().find_first_not_of(" \t\r\n") == std::string::npos ? json() : json::parse(input());
    return parsed;
}

/// Whether Jobber started this process.
inline bool under_jobber() { return !detail::variable("JOBBER_JOB_ID").empty(); }

/// The job's id; empty outside Jobber.
inline std::string job_id() { return detail::variable("JOBBER_JOB_ID"); }

/// The job's name; outside Jobber the program's file name.
inline std::string job_name() {
    const std::string name = detail::variable("JOBBER_JOB_NAME");
    return name.empty() ? detail::program.substr(detail::program.find_last_of('/') + 1) : name;
}

/// Which attempt this is, from 1.
inline int attempt() { return detail::positive(detail::variable("JOBBER_ATTEMPT")).value_or(1); }

/// How many attempts the job has; 1 outside Jobber.
inline int max_attempts() { return detail::positive(detail::variable("JOBBER_MAX_ATTEMPTS")).value_or(1); }

/// Which job of its array this is; nothing if it is of none.
inline std::optional<std::uint32_t> array_index() {
    const std::string text = detail::variable("JOBBER_ARRAY_INDEX");
    std::uint32_t index = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return index;
}

/// The group of jobs to which the job belongs; empty if to none.
inline std::string group() { return detail::variable("JOBBER_GROUP"); }

/// How many cores the job owns, hence how many threads are worth starting; outside Jobber all it may run on.
inline int cores() {
    const auto hardware = static_cast<int>(std::thread::hardware_concurrency());
    return detail::positive(detail::variable("JOBBER_CORES")).value_or(std::max(hardware, 1));
}

/// The numbers of the CPUs the job is pinned to; empty outside Jobber.
inline std::vector<int> cpus() {
    std::vector<int> numbers;
    std::istringstream list(detail::variable("JOBBER_CPUS"));
    for (std::string number; std::getline(list, number, ',');) {
        int cpu = 0;
        if (std::from_chars(number.data(), number.data() + number.size(), cpu).ec == std::errc()) {
            numbers.push_back(cpu);
        }
    }
    return numbers;
}

// ---------------------------------------------------------------------------------------------------------------
// What the job says
// ---------------------------------------------------------------------------------------------------------------

namespace detail {

inline std::mutex output;
inline std::atomic<std::int64_t> next_progress{std::numeric_limits<std::int64_t>::min()};
inline bool progress_complete = false;

/// Writes one line and flushes it. What the job printed through std::cout before it stays before it.
inline void write_line(const std::string& line) {
    std::cout.flush();
    std::fwrite(line.data(), 1, line.size(), stdout);
    std::fflush(stdout);
}

inline std::string one_line(std::string_view text) {
    std::string line(text);
    std::replace_if(line.begin(), line.end(), [](unsigned char c) { return c < 0x20; }, ' ');
    return line;
}

/// A percentage with at most two decimals, in any locale, that never rounds up to 100.
inline std::string percentage(double percent) {
    const double clamped = std::min(std::max(percent, 0.0), 100.0);
    long long hundredths = std::llround(clamped * 100);
    if (clamped < 100 && hundredths == 10000) {
        hundredths = 9999;
    }
    std::string text = std::to_string(hundredths / 100);
    if (hundredths % 100 != 0) {
        const std::string decimals = std::to_string(100 + hundredths % 100).substr(1);
        text += "." + decimals.substr(0, decimals[1] == '0' ? 1 : 2);
    }
    return text;
}

} // namespace detail

/// Reports progress, 0 to 100 (values outside are clamped, NaN is ignored), with a text for people. At most ten
/// lines a second leave the process, so call it as often as you like, from any thread; the first 100 always passes.
/// The line must start at the beginning of a line: end what you print yourself with '\n'.
inline void progress(double percent, std::string_view text = {}) {
    if (std::isnan(percent)) {
        return;
    }
    using std::chrono::milliseconds;
    const auto clock = std::chrono::steady_clock::now().time_since_epoch();
    const std::int64_t now = std::chrono::duration_cast<milliseconds>(clock).count();
    const bool complete = percent >= 100;
    if (!complete && now < detail::next_progress.load(std::memory_order_relaxed)) {
        return;
    }
    const std::lock_guard<std::mutex> lock(detail::output);
    const bool due = now >= detail::next_progress.load(std::memory_order_relaxed);
    if (!due && (!complete || detail::progress_complete)) {
        return;
    }
    detail::next_progress.store(now + 100, std::memory_order_relaxed);
    detail::progress_complete = complete;
    std::string line = "::progress " + detail::percentage(percent);
    if (!text.empty()) {
        line += " " + detail::one_line(text);
    }
    detail::write_line(line + "\n");
}

/// Gives the job's structured result, in place of its trimmed stdout. The line must start at the beginning of a
/// line. Thread-safe.
inline void result(const json& value) {
    const std::string line = "::result " + value.dump() + "\n";
    const std::lock_guard<std::mutex> lock(detail::output);
    detail::write_line(line);
}

/// The directory for the files that Jobber keeps with the job; empty outside Jobber.
inline std::string output_dir() { return detail::variable("JOBBER_OUTPUT_DIR"); }

/// Says why the job fails: to JOBBER_ERROR_FILE, whose content becomes the attempt's error text, and to stderr. The
/// last call counts. It doesn't end the job; `fail` does both.
inline void error_text(std::string_view text) {
    const std::string message(text.empty() ? std::string_view("failed without a message") : text);
    const std::lock_guard<std::mutex> lock(detail::output);
    std::cerr.flush();
    std::fprintf(stderr, "%s\n", message.c_str());
    const std::string path = detail::variable("JOBBER_ERROR_FILE");
    if (path.empty()) {
        return;
    }
    std::FILE* file = std::fopen(path.c_str(), "wb");
    const bool written = file && std::fwrite(message.data(), 1, message.size(), file) == message.size();
    const bool closed = file && std::fclose(file) == 0;
    if (!written || !closed) {
        std::fprintf(stderr, "jobber.hpp: couldn't write the error file %s\n", path.c_str());
    }
}

// ---------------------------------------------------------------------------------------------------------------
// run
// ---------------------------------------------------------------------------------------------------------------

namespace detail {

/// A type's name as people write it: without the library's inner namespaces, ABI tags and wrappers.
inline std::string readable(const char* mangled) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> demangled(
        abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
    std::string name = demangled ? demangled.get() : mangled;
    for (const std::string_view noise : {"__cxx11::", "[abi:cxx11]", "__1::"}) {
        for (std::size_t at = name.find(noise); at != std::string::npos; at = name.find(noise)) {
            name.erase(at, noise.size());
        }
    }
    for (const std::string_view wrapper : {"std::_Nested_exception<", "std::__nested<"}) {
        if (name.compare(0, wrapper.size(), wrapper) == 0) {
            name = name.substr(wrapper.size(), name.size() - wrapper.size() - 1);
        }
    }
    return name;
}

/// The type of the exception that is being handled.
inline std::string current_type() {
    const std::type_info* type = abi::__cxa_current_exception_type();
    return type ? readable(type->name()) : "exception";
}

/// What an exception says, and which exit code belongs to it.
struct verdict {
    std::string text;
    int code;
};

inline verdict judge(const std::exception_ptr& thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const failure& error) {
        return {error.what(), error.code()};
    } catch (const json_error& error) {
        return {std::string("bad data: ") + error.what(), exit_code::permanent};
    } catch (const std::exception& error) {
        verdict verdict{current_type() + ": " + error.what(), exit_code::failed};
#if defined(__GXX_RTTI) || defined(__cpp_rtti)
        try {
            std::rethrow_if_nested(error);
        } catch (...) {
            verdict.text += "\ncaused by: " + judge(std::current_exception()).text;
        }
#endif
        return verdict;
    } catch (const std::string& text) {
        return {text, exit_code::failed};
    } catch (const char* text) {
        return {text, exit_code::failed};
    } catch (...) {
        return {"uncaught exception of type " + current_type(), exit_code::failed};
    }
}

/// For an exception that leaves a thread or a destructor, where `run` can't catch it.
[[noreturn]] inline void on_terminate() {
    const std::exception_ptr thrown = std::current_exception();
    error_text(thrown ? judge(thrown).text
                      : "std::terminate was called (a std::thread destroyed without join?)");
    std::abort();
}

} // namespace detail

/// Runs a job: `int main(int argc, char** argv) { return jobber::run(argc, argv, [] { ... }); }`.
///
/// `fn` takes nothing and returns nothing or an exit code. An exception becomes the error text, with its type's name
/// and what(), and an exit code: that of a `failure`, `permanent` for a `json_error`, else `failed`. An exception
/// that leaves a thread writes the error text too, before it aborts the process. Output that couldn't be written
/// fails the job.
template <class Fn>
int run(int argc, char** argv, Fn&& fn) {
    try {
        detail::program = argc > 0 ? argv[0] : "";
        detail::arguments.assign(argv + std::min(argc, 1), argv + argc);
        std::set_terminate(detail::on_terminate);
        int code = exit_code::completed;
        if constexpr (std::is_void_v<decltype(fn())>) {
            fn();
        } else {
            code = fn();
        }
        std::cout.flush();
        if (code == exit_code::completed && (!std::cout || std::fflush(stdout) != 0 || std::ferror(stdout))) {
            fail("couldn't write standard output");
        }
        return code;
    } catch (...) {
        const detail::verdict verdict = detail::judge(std::current_exception());
        error_text(verdict.text);
        return verdict.code;
    }
}

} // namespace jobber

#endif

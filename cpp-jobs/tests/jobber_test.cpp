// Tests jobber.hpp. What a job says and how it ends is tested from outside, in child processes.

#include "jobber.hpp"

#include <functional>
#include <map>

#include <sys/wait.h>

namespace {

using jobber::json;

int passed = 0;
int failed = 0;

void check(bool good, const std::string& what) {
    ++(good ? passed : failed);
    if (!good) {
        std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    }
}

void same(const std::string& got, const std::string& wanted, const std::string& what) {
    check(got == wanted, what + "\n  got:    " + got + "\n  wanted: " + wanted);
}

/// The message of the json_error that `act` throws.
std::string complaint(const std::function<void()>& act) {
    try {
        act();
    } catch (const jobber::json_error& error) {
        return error.what();
    }
    return "no error";
}

std::string parse_complaint(const std::string& text) {
    return complaint([&] { json::parse(text); });
}

struct ending {
    int status;
    std::string out;
    std::string err;
    std::string error_file;
};

std::string read_back(std::FILE* file) {
    std::string text;
    std::rewind(file);
    for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) {
        text += static_cast<char>(c);
    }
    return text;
}

struct job {
    std::string input;
    std::vector<std::string> arguments;
    std::map<std::string, std::string> environment;
    std::function<int()> body;
    /// Sent SIGTERM as soon as this has come to stdout.
    std::string term_after;
};

/// Runs a job in a child process as Jobber would.
ending run(const job& job) {
    std::FILE* in = std::tmpfile();
    std::FILE* out = std::tmpfile();
    std::FILE* err = std::tmpfile();
    std::FILE* error_file = std::tmpfile();
    std::fwrite(job.input.data(), 1, job.input.size(), in);
    std::rewind(in);
    std::fflush(nullptr);

    const pid_t child = fork();
    if (child == 0) {
        dup2(fileno(in), STDIN_FILENO);
        dup2(fileno(out), STDOUT_FILENO);
        dup2(fileno(err), STDERR_FILENO);
        const std::string path = "/proc/self/fd/" + std::to_string(fileno(error_file));
        setenv("JOBBER_ERROR_FILE", path.c_str(), 1);
        for (const auto& [name, value] : job.environment) {
            setenv(name.c_str(), value.c_str(), 1);
        }
        std::vector<std::string> words = {"/jobs/tested"};
        words.insert(words.end(), job.arguments.begin(), job.arguments.end());
        std::vector<char*> argv;
        for (std::string& word : words) {
            argv.push_back(word.data());
        }
        const int code = jobber::run(static_cast<int>(argv.size()), argv.data(), job.body);
        std::fflush(nullptr);
        _exit(code);
    }
    if (!job.term_after.empty()) {
        while (read_back(out).find(job.term_after) == std::string::npos) {
            usleep(1000);
        }
        kill(child, SIGTERM);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ending ending{status, read_back(out), read_back(err), read_back(error_file)};
    for (std::FILE* file : {in, out, err, error_file}) {
        std::fclose(file);
    }
    return ending;
}

ending run_body(const std::function<int()>& body) { return run({"", {}, {}, body, ""}); }

bool exited(const ending& ending, int code) { return WIFEXITED(ending.status) && WEXITSTATUS(ending.status) == code; }

std::size_t count(const std::string& text, const std::string& part) {
    std::size_t found = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
        ++found;
    }
    return found;
}

void json_round_trips() {
    for (const char* text : {
             "null", "true", "false", "0", "-1", "9223372036854775807", "-9223372036854775808", "0.1", "1e+300",
             "0.3", "-0.0", "1.7976931348623157e+308", "\"\"", "\"a\\\"b\\\\c\\n\\t\\r\\u0001\"", "[]", "{}",
             "[1,[2,[3,[]]]]", "{\"b\":1,\"a\":{\"c\":[null,true,\"x\"]}}", "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"",
         }) {
        same(json::parse(text).dump(), text, "round trip");
    }
    check(json::parse(json::parse("5e-324").dump()).as<double>() == 5e-324, "the smallest double");
    same(json::parse(" { \"a\" :\t[ 1 , 2 ]\r\n} ").dump(), "{\"a\":[1,2]}", "white space");
    same(json::parse(R"("\u0041\u00e9\u20AC\ud83d\ude00\/\b\f")").as<std::string>(),
         "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80/\b\f", "escapes");
    same(json::parse(R"("a\u0000b")").as<std::string>(), std::string("a\0b", 3), "an escaped NUL");
    check(json::parse("9223372036854775807").is_integer(), "the largest int64 is exact");
    check(!json::parse("9223372036854775808").is_integer(), "beyond int64 it's a double");
    check(json::parse("1e3").as<int>() == 1000, "a whole double is an integer, too");
    check(json::parse("3").as<double>() == 3.0, "an integer is a double, too");
    check(json::parse("5.0").dump() == "5.0", "a double stays a double");
    check(json::parse(std::string(256, '[') + std::string(256, ']')).is_array(), "256 levels are fine");
}

void malformed_json_is_explained() {
    const std::map<std::string, std::string> cases = {
        {"", "malformed JSON at byte 0: expected a value, found the end of the text"},
        {"  ", "malformed JSON at byte 2: expected a value, found the end of the text"},
        {"nul", "malformed JSON at byte 3: expected 'null', found the end of the text"},
        {"truth", "malformed JSON at byte 3: expected 'true', found 't'"},
        {"1 2", "malformed JSON at byte 2: expected the end of the JSON text, found '2'"},
        {"[1,]", "malformed JSON at byte 3: expected a value, found ']'"},
        {"[1 2]", "malformed JSON at byte 3: expected ',' or ']', found '2'"},
        {"[1", "malformed JSON at byte 2: expected ',' or ']', found the end of the text"},
        {"{\"a\" 1}", "malformed JSON at byte 5: expected ':', found '1'"},
        {"{\"a\":1,}", "malformed JSON at byte 7: expected a member name in double quotes, found '}'"},
        {"{a:1}", "malformed JSON at byte 1: expected a member name in double quotes, found 'a'"},
        {"{\"a\":1", "malformed JSON at byte 6: expected ',' or '}', found the end of the text"},
        {" {\"a\":1,\"a\":2}", "malformed JSON at byte 1: this object has \"a\" more than once"},
        {"01", "malformed JSON at byte 1: a number has no leading zero: expected '.', 'e' or its end, found '1'"},
        {"-", "malformed JSON at byte 1: expected a digit, found the end of the text"},
        {"1.", "malformed JSON at byte 2: expected a digit, found the end of the text"},
        {".5", "malformed JSON at byte 0: expected a value, found '.'"},
        {"+1", "malformed JSON at byte 0: expected a value, found '+'"},
        {"1e", "malformed JSON at byte 2: expected a digit, found the end of the text"},
        {"[1e999]", "malformed JSON at byte 1: the number 1e999 is out of range"},
        {"NaN", "malformed JSON at byte 0: expected a value, found 'N'"},
        {"\"abc", "malformed JSON at byte 0: this string has no closing quote"},
        {"\"a\nb\"", "malformed JSON at byte 2: a control character in a string must be escaped, found byte 0x0a"},
        {"\"\\x\"", "malformed JSON at byte 2: expected one of \"\\/bfnrtu after '\\', found 'x'"},
        {"\"\\u12g4\"", "malformed JSON at byte 5: expected four hex digits after '\\u', found 'g'"},
        {"\"\\ud83d\"", "malformed JSON at byte 1: half of a surrogate pair"},
        {"\"\\ude00\"", "malformed JSON at byte 1: half of a surrogate pair"},
        {"\"\\ud83d\\u0041\"", "malformed JSON at byte 1: half of a surrogate pair"},
        {"\"\xFF\"", "malformed JSON at byte 1: this string isn't valid UTF-8, found byte 0xff"},
        {"\"\xC0\x80\"", "malformed JSON at byte 1: this string isn't valid UTF-8, found byte 0xc0"},
        {"\"\xED\xA0\x80\"", "malformed JSON at byte 1: this string isn't valid UTF-8, found byte 0xed"},
        {"\"\xE2\x82", "malformed JSON at byte 1: this string isn't valid UTF-8, found byte 0xe2"},
        {std::string("[\0]", 3), "malformed JSON at byte 1: expected a value, found byte 0x00"},
        {"\xEF\xBB\xBF{}", "malformed JSON at byte 0: expected a value, found byte 0xef"},
        {std::string(100000, '['), "malformed JSON at byte 256: nested deeper than 256 levels"},
    };
    for (const auto& [text, message] : cases) {
        same(parse_complaint(text), message, "malformed: " + text.substr(0, 40));
    }
    // No prefix of a document is a document, and none may crash.
    const std::string whole = R"({"a":[1,-2.5e3,true,null,"\u00e9\ud83d\ude00"],"b":{"c":"d"}})";
    for (std::size_t length = 0; length < whole.size(); ++length) {
        check(parse_complaint(whole.substr(0, length)) != "no error", "prefix of " + std::to_string(length));
    }
}

void json_values_are_typed() {
    const json data = json::parse(R"({"width":800,"name":"x","list":[1,2],"none":null,"half":0.5,"big":300})");
    check(data.value("width", 1) == 800 && data.value("missing", 7) == 7 && data.value("none", 9) == 9, "value()");
    same(data.value("name", "y"), "x", "a string member");
    same(data.value("absent", "y"), "y", "a string fallback");
    check(data.at("list").as<std::vector<int>>() == std::vector<int>{1, 2}, "a vector");
    same(complaint([&] { data.value("name", 3); }), "\"name\": expected an integer, found a string", "wrong type");
    same(complaint([&] { data.value("half", 3); }), "\"half\": expected an integer, found 0.5", "not whole");
    same(complaint([&] { data.value<std::uint8_t>("big", 3); }), "\"big\": the number 300 is out of range", "range");
    same(complaint([&] { json(-1).as<unsigned>(); }), "the number -1 is out of range", "negative to unsigned");
    same(complaint([&] { json(1e19).as<std::int64_t>(); }), "expected an integer, found 1e+19", "beyond int64");
    same(complaint([&] { data.at("nope"); }), "there is no \"nope\" in an object", "at()");
    same(complaint([&] { data.items(); }), "expected an array, found an object", "items()");
    same(complaint([&] { json(1).set("a", 1); }), "expected an object, found an integer", "set() on a number");
    same(complaint([] { json(std::nan("")).dump(); }), "NaN and infinity can't be written as JSON", "NaN");

    json made = json::object({{"a", 1}, {"b", json::array({1.5, "two", nullptr, true})}, {"a", 2}});
    made.set("c", std::vector<std::string>{"x", "y"}).set("d", json().push(1).push("z"));
    same(made.dump(), R"({"a":2,"b":[1.5,"two",null,true],"c":["x","y"],"d":[1,"z"]})", "building");
    same(json("bad \xFF byte\x01").dump(), "\"bad \xEF\xBF\xBD byte\\u0001\"", "invalid UTF-8 is replaced");
    check(json(18446744073709551615U).dump() == "1.8446744073709552e+19", "a large unsigned");
    check(json::parse("[1,2]") == json::array({1, 2}) && json(1) != json(1.0), "equality");
}

void a_job_knows_its_orders() {
    const job ordered = {R"({"n":41})",
                         {"one", "two words", ""},
                         {{"JOBBER_JOB_ID", "id-7"},
                          {"JOBBER_JOB_NAME", "tested"},
                          {"JOBBER_ATTEMPT", "2"},
                          {"JOBBER_MAX_ATTEMPTS", "5"},
                          {"JOBBER_CORES", "3"},
                          {"JOBBER_CPUS", "0,2,11"},
                          {"JOBBER_GROUP", "sims"},
                          {"JOBBER_ARRAY_INDEX", "4294967295"}},
                         [] {
                             jobber::result(json::object({{"arguments", jobber::arguments()},
                                                          {"n", jobber::data().at("n").as<int>() + 1},
                                                          {"id", jobber::job_id()},
                                                          {"name", jobber::job_name()},
                                                          {"attempt", jobber::attempt()},
                                                          {"of", jobber::max_attempts()},
                                                          {"cores", jobber::cores()},
                                                          {"cpus", jobber::cpus()},
                                                          {"group", jobber::group()},
                                                          {"index", jobber::array_index().value_or(0)},
                                                          {"under", jobber::under_jobber()}}));
                             return 0;
                         },
                         ""};
    const ending known = run(ordered);
    check(exited(known, 0), "a job that knows its orders completes");
    same(known.out,
         R"(::result {"arguments":["one","two words",""],"n":42,"id":"id-7","name":"tested","attempt":2,"of":5,)"
         "\"cores\":3,\"cpus\":[0,2,11],\"group\":\"sims\",\"index\":4294967295,\"under\":true}\n",
         "orders");

    const ending outside = run_body([] {
        const bool defaults = !jobber::under_jobber() && jobber::job_id().empty() && jobber::job_name() == "tested" &&
                              jobber::attempt() == 1 && jobber::max_attempts() == 1 && jobber::cores() >= 1 &&
                              jobber::cpus().empty() && jobber::data().is_null() && jobber::group().empty() &&
                              !jobber::array_index();
        return defaults ? 0 : 9;
    });
    check(exited(outside, 0), "outside Jobber there are defaults");
}

void progress_is_one_line_and_rare() {
    const ending spoken = run_body([] {
        std::cout << "before\n";
        jobber::progress(33.333, "two\nlines\tand a tab");
        jobber::progress(50);
        jobber::progress(100, "done");
        jobber::progress(100, "done");
        return 0;
    });
    same(spoken.out, "before\n::progress 33.33 two lines and a tab\n::progress 100 done\n", "progress");

    for (const auto& [percent, line] : std::map<double, std::string>{
             {-5.0, "0"}, {0.5, "0.5"}, {7.0, "7"}, {12.05, "12.05"}, {99.9999, "99.99"}, {1000.0, "100"}}) {
        const double reported = percent;
        const ending said = run_body([reported] {
            jobber::progress(std::nan(""));
            jobber::progress(reported);
            return 0;
        });
        same(said.out, "::progress " + line + "\n", "percentage");
    }

    const ending flooded = run_body([] {
        const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(350);
        const auto report = [end] {
            while (std::chrono::steady_clock::now() < end) {
                jobber::progress(1, "from a thread");
            }
        };
        std::thread first(report);
        std::thread second(report);
        first.join();
        second.join();
        jobber::progress(100);
        return 0;
    });
    const std::size_t lines = count(flooded.out, "\n");
    check(lines >= 3 && lines <= 6, "350 ms of progress give about four lines and the last: " + flooded.out);
    check(flooded.out.size() >= 15 && flooded.out.substr(flooded.out.size() - 15) == "::progress 100\n", "100 passes");
    check(count(flooded.out, "::progress") == lines, "each line is whole");
}

void errors_reach_the_error_file() {
    struct failing {
        std::function<int()> body;
        int code;
        std::string text;
    };
    const std::vector<failing> cases = {
        {[]() -> int { jobber::fail("disk is full"); }, 1, "disk is full"},
        {[]() -> int { jobber::fail("bad option", jobber::exit_code::usage); }, 64, "bad option"},
        {[]() -> int { throw std::out_of_range("index 7"); }, 1, "std::out_of_range: index 7"},
        {[]() -> int { throw std::string("just text"); }, 1, "just text"},
        {[]() -> int { throw 42; }, 1, "uncaught exception of type int"},
        {[]() -> int { return json::parse("{\"n\":true}").value("n", 1); }, 65,
         "bad data: \"n\": expected an integer, found a boolean"},
        {[]() -> int {
             try {
                 throw std::invalid_argument("inner");
             } catch (...) {
                 std::throw_with_nested(std::runtime_error("outer"));
             }
         },
         1, "std::runtime_error: outer\ncaused by: std::invalid_argument: inner"},
        {[]() -> int {
             jobber::error_text("");
             return 3;
         },
         3, "failed without a message"},
    };
    for (const failing& failing : cases) {
        const ending ended = run_body(failing.body);
        check(exited(ended, failing.code), "exit code of: " + failing.text);
        same(ended.error_file, failing.text, "error file");
        same(ended.err, failing.text + "\n", "stderr");
    }

    const ending bad_data = run({"{\"a\":", {}, {}, [] { return jobber::data().is_null() ? 0 : 1; }, ""});
    check(exited(bad_data, 65), "malformed data is permanent");
    same(bad_data.error_file, "bad data: malformed JSON at byte 5: expected a value, found the end of the text",
         "malformed data");

    const ending thread = run_body([]() -> int {
        std::thread([] { throw std::logic_error("in a thread"); }).join();
        return 0;
    });
    check(WIFSIGNALED(thread.status) && WTERMSIG(thread.status) == SIGABRT, "an exception in a thread aborts");
    same(thread.error_file, "std::logic_error: in a thread", "an exception in a thread is reported");

    const ending full = run_body([] {
        const int device = open("/dev/full", O_WRONLY);
        dup2(device, STDOUT_FILENO);
        std::cout << "lost\n";
        return 0;
    });
    check(exited(full, 1), "lost output fails the job");
    same(full.error_file, "couldn't write standard output", "lost output is reported");

    const ending no_file = run({"", {}, {{"JOBBER_ERROR_FILE", "/nonexistent/file"}}, []() -> int { throw 1; }, ""});
    check(exited(no_file, 1) && count(no_file.err, "couldn't write the error file") == 1, "no error file to write");
}

void sigterm_cancels() {
    const auto announce = [] {
        jobber::cancelled();
        jobber::progress(0, "ready");
    };
    const ending thrown = run({"", {}, {}, [announce]() -> int {
                                   announce();
                                   while (true) {
                                       jobber::throw_if_cancelled();
                                       std::this_thread::sleep_for(std::chrono::milliseconds(1));
                                   }
                               },
                               "ready"});
    check(exited(thrown, 143), "a cancelled job exits with 128 + SIGTERM");
    same(thrown.error_file, "stopped by SIGTERM", "a cancelled job says so");

    const ending asked = run({"", {}, {}, [announce] {
                                  announce();
                                  const bool slept = jobber::sleep_for(std::chrono::minutes(1));
                                  return !slept && jobber::cancelled() ? 0 : 9;
                              },
                              "ready"});
    check(exited(asked, 0), "a job may finish after SIGTERM, and sleep_for wakes up");

    const ending deaf = run({"", {}, {}, [] {
                                 jobber::progress(0, "ready");
                                 std::this_thread::sleep_for(std::chrono::minutes(1));
                                 return 0;
                             },
                             "ready"});
    check(WIFSIGNALED(deaf.status) && WTERMSIG(deaf.status) == SIGTERM, "a job that never asks dies of SIGTERM");
    check(exited(run_body([] { return jobber::sleep_for(std::chrono::milliseconds(5)) ? 0 : 9; }), 0), "undisturbed");
}

} // namespace

int main() {
    for (const char* name : {"JOB_ID", "JOB_NAME", "ATTEMPT", "MAX_ATTEMPTS", "CORES", "CPUS", "ERROR_FILE"}) {
        unsetenv((std::string("JOBBER_") + name).c_str());
    }
    json_round_trips();
    malformed_json_is_explained();
    json_values_are_typed();
    a_job_knows_its_orders();
    progress_is_one_line_and_rare();
    errors_reach_the_error_file();
    sigterm_cancels();
    std::printf("jobber.hpp: %d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}

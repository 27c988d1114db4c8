# Builds the job @JOB@.
#
#   make                      into the directory build
#   make JOBS_DIR=/srv/jobs   into a worker's jobs directory
#   make test                 builds it with warnings as errors, and runs test.sh

JOBS_DIR ?= build
# With -g a crash report names lines.
CXXFLAGS ?= -O2 -g
# A static program runs on every machine of a fleet. `make STATIC=` links to the libraries of this one.
STATIC ?= -static -Wl,--whole-archive -lpthread -Wl,--no-whole-archive
SOURCES := $(wildcard *.cpp)
HEADERS := $(wildcard *.hpp)

.PHONY: all test clean
all: $(JOBS_DIR)/@JOB@

# Renamed when it is whole: nobody ever runs half a program, and a running one is no obstacle.
%/@JOB@: $(SOURCES) $(HEADERS) Makefile
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -Wall -Wextra $(CXXFLAGS) $(WARNINGS) -o $(@D)/.@JOB@.$$$$ $(SOURCES) $(LDFLAGS) -pthread $(STATIC) $(LDLIBS) && mv -f $(@D)/.@JOB@.$$$$ $@

test:
	@$(MAKE) --no-print-directory JOBS_DIR=build/test WARNINGS="-Wpedantic -Werror"
	./test.sh build/test/@JOB@

clean:
	rm -rf build

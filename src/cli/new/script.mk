# Puts the job @JOB@ where it is run from.
#
#   make                      into the directory build
#   make JOBS_DIR=/srv/jobs   into a worker's jobs directory
#   make test                 runs test.sh

JOBS_DIR ?= build

.PHONY: all test clean
all: $(JOBS_DIR)/@JOB@

# Renamed when it is whole: nobody ever runs half of it.
%/@JOB@: @SOURCE@ Makefile
	@mkdir -p $(@D)
	install -m 755 @SOURCE@ $(@D)/.@JOB@.$$$$ && mv -f $(@D)/.@JOB@.$$$$ $@

test: build/@JOB@
	./test.sh build/@JOB@

clean:
	rm -rf build

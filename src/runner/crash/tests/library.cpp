// A library of the job's own.

__attribute__((noinline)) void library_breaks(int* place) {
    *place = 1; // in-library
}

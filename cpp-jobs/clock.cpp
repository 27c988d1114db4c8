// Tells the time at its first instruction, for benchmarks: microseconds since 1970.

#include <cstdio>
#include <ctime>

int main() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return std::printf("%lld\n", now.tv_sec * 1000000LL + now.tv_nsec / 1000) > 0 ? 0 : 1;
}

// A kernel of known length: it waits until the device's own clock has gone on by so much.
struct Args {
  unsigned long long nanoseconds;
};

__device__ unsigned long long device_clock() {
  unsigned long long nanoseconds;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(nanoseconds));
  return nanoseconds;
}

__global__ void spin(const __grid_constant__ Args args) {
  const unsigned long long start = device_clock();
  while (device_clock() - start < args.nanoseconds) {
  }
}

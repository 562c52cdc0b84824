// libcuda.so.1 of the null GPU: what torch, Triton and DeepSpeed ask of the driver itself.
#include <cstddef>
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT void null_gpu_launch_on(const char* kernel, void* stream);
EXPORT int cudaDeviceGetAttribute(int* value, int which, int device);

namespace {

int give(void** place) { return *place = reinterpret_cast<void*>(1), 0; }
int give(int* place, int value) { return *place = value, 0; }

constexpr char kKernel[] = "compiled at run time";
enum FunctionAttribute { kMaxThreads = 0, kRegisters = 4 };

// As the driver's: what is behind the stream is not looked at.
struct LaunchConfiguration {
  unsigned grid[3], block[3], shared;
  void* stream;
};

}  // namespace

EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuDriverGetVersion(int* version) { return give(version, 13000); }
EXPORT int cuDeviceGetCount(int* count) { return give(count, 1); }
EXPORT int cuDeviceGet(int* device, int ordinal) { return give(device, ordinal); }
EXPORT int cuDeviceGetAttribute(int* value, int which, int device) {
  return cudaDeviceGetAttribute(value, which, device);  // both count them alike
}
EXPORT int cuCtxGetCurrent(void** context) { return give(context); }
EXPORT int cuCtxSetCurrent(void*) { return 0; }
EXPORT int cuDevicePrimaryCtxRetain(void** context, int) { return give(context); }
EXPORT int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  return give(active, 1);
}
EXPORT int cuGetErrorString(int, const char** text) { return *text = "null GPU", 0; }
EXPORT int cuModuleLoad(void** module, const void*) { return give(module); }
EXPORT int cuModuleLoadData(void** module, const void*) { return give(module); }
EXPORT int cuModuleLoadDataEx(void** module, const void*) { return give(module); }
EXPORT int cuModuleUnload(void*) { return 0; }
EXPORT int cuModuleGetFunction(void** function, void*, const char*) { return give(function); }
EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks) { return give(blocks, 2); }
EXPORT int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void* stream) {
  return null_gpu_launch_on(kKernel, stream), 0;
}
EXPORT int cuLaunchKernelEx(const LaunchConfiguration* configuration) {
  return null_gpu_launch_on(kKernel, configuration->stream), 0;
}
EXPORT int cuLaunchCooperativeKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                     void* stream) {
  return null_gpu_launch_on(kKernel, stream), 0;
}
EXPORT int cuFuncGetAttribute(int* value, int which) {
  return give(value, which == kMaxThreads ? 1024 : which == kRegisters ? 32 : 0);
}
EXPORT int cuCtxGetLimit(size_t* value, int) { return *value = 0, 0; }
EXPORT int cuCtxSetLimit() { return 0; }
EXPORT int cuFuncSetAttribute() { return 0; }
EXPORT int cuFuncSetCacheConfig() { return 0; }
EXPORT int cuLinkAddData_v2() { return 0; }
EXPORT int cuLinkComplete() { return 0; }
EXPORT int cuLinkCreate_v2() { return 0; }
EXPORT int cuPointerGetAttribute() { return 0; }
EXPORT int cuTensorMapEncodeTiled() { return 0; }
EXPORT int cuGetProcAddress() { return 0; }
EXPORT int cuGetProcAddress_v2() { return 0; }

// libcuda.so.1 of the null GPU: what torch, Triton and DeepSpeed ask of the driver itself.
#include <cstddef>
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT void null_gpu_launch(const char* kernel);

namespace {

int give(void** place) { return *place = reinterpret_cast<void*>(1), 0; }
int give(int* place, int value) { return *place = value, 0; }

}  // namespace

EXPORT int cuInit(unsigned) { return 0; }
EXPORT int cuDriverGetVersion(int* version) { return give(version, 13000); }
EXPORT int cuDeviceGetCount(int* count) { return give(count, 1); }
EXPORT int cuDeviceGet(int* device, int ordinal) { return give(device, ordinal); }
EXPORT int cuDeviceGetAttribute(int* value, int, int) { return give(value, 1); }
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
EXPORT int cuLaunchKernel() { return null_gpu_launch("compiled at run time"), 0; }
EXPORT int cuLaunchCooperativeKernel() { return null_gpu_launch("compiled at run time"), 0; }
EXPORT int cuFuncGetAttribute() { return 0; }
EXPORT int cuFuncSetAttribute() { return 0; }
EXPORT int cuFuncSetCacheConfig() { return 0; }
EXPORT int cuLinkAddData_v2() { return 0; }
EXPORT int cuLinkComplete() { return 0; }
EXPORT int cuLinkCreate_v2() { return 0; }
EXPORT int cuPointerGetAttribute() { return 0; }
EXPORT int cuTensorMapEncodeTiled() { return 0; }
EXPORT int cuGetProcAddress() { return 0; }
EXPORT int cuGetProcAddress_v2() { return 0; }

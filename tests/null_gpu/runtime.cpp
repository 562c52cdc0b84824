// The CUDA runtime of a GPU that computes nothing: calls succeed and are counted, kernels are not run. "Device" memory is
// memory of the host, so that copies are real.
#define CUDARTAPI
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "capture.h"
#include "counters.h"

namespace {

constexpr size_t kTotalMemory = 80ull << 30;
constexpr size_t kReserved = 1ull << 40;       // addresses; pages are there once they are written
constexpr size_t kLargestRealCopy = 64 << 10;  // between places on the device: nobody looks at more

struct State {
  std::map<std::string, long> counts, num_bytes, kernels;
  std::unordered_map<const void*, const char*> kernel_names;
  std::map<size_t, std::vector<char*>> free_blocks;
  std::unordered_map<void*, size_t> blocks, pinned;
  char *base = nullptr, *top = nullptr;
  size_t live = 0, peak = 0;
};

State& state() {
  static State* all = new State;  // never destroyed: torch frees memory while the process ends
  return *all;
}

std::mutex mutex;
std::atomic<long> launches{0};
std::atomic<long> next_handle{16};
std::atomic<int> answer{-1};
thread_local int device = 0;
thread_local bool has_begun_capture = false;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

int number_from(const char* variable, int otherwise) {
  const char* text = getenv(variable);
  return text ? atoi(text) : otherwise;
}

bool is_pinned(const void* pointer) {
  const char* p = static_cast<const char*>(pointer);
  for (auto& [start, size] : state().pinned)
    if (p >= start && p < static_cast<char*>(start) + size) return true;
  return false;
}

template <class Handle>
cudaError_t new_handle(Handle* handle) {
  *handle = reinterpret_cast<Handle>(next_handle++);
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t num_bytes) {
  bool to_device = is_device(to), from_device = is_device(from), pinned;
  {
    std::lock_guard<std::mutex> lock(mutex);
    pinned = is_pinned(to_device ? from : to);
  }
  const char* host = pinned ? "pinned" : "pageable";
  std::string kind = "copy on the device";
  if (!from_device || !to_device) kind = std::string(from_device ? "copy to the host, " : "copy to the device, ") + host;
  count(kind.c_str(), num_bytes);
  if (!from_device || !to_device || num_bytes <= kLargestRealCopy) memmove(to, from, num_bytes);
  if (answer >= 0 && from_device && !to_device && num_bytes == 1) *static_cast<char*>(to) = answer;
  return cudaSuccess;
}

cudaError_t synchronise(const char* how) {
  count(how);
  if (!has_begun_capture) return cudaSuccess;
  count("synchronisation while capturing");
  return cudaErrorStreamCaptureUnsupported;
}

int attribute(int which) {
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMultiProcessorCount: return 132;
    case cudaDevAttrComputeCapabilityMajor: return 9;
    case cudaDevAttrComputeCapabilityMinor: return 0;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 49152;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 232448;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 233472;
    case cudaDevAttrMaxRegistersPerBlock: return 65536;
    case cudaDevAttrClockRate: return 1980000;
    case cudaDevAttrMemoryClockRate: return 2619000;
    case cudaDevAttrGlobalMemoryBusWidth: return 5120;
    default: return 1;
  }
}

void launch_function(const void* function, cudaStream_t stream) {
  const char* name = "unknown";
  {
    std::lock_guard<std::mutex> lock(mutex);
    auto found = state().kernel_names.find(function);
    if (found != state().kernel_names.end()) name = found->second;
  }
  count_launch(name);
  capture::work(stream, name);
}

int unused() { return 0; }

}  // namespace

void count(const char* what, size_t num_bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  state().counts[what]++;
  state().num_bytes[what] += num_bytes;
}

void count_launch(const char* kernel) {
  launches++;
  std::lock_guard<std::mutex> lock(mutex);
  state().kernels[kernel]++;
}

bool is_device(const void* pointer) {
  std::lock_guard<std::mutex> lock(mutex);
  const char* p = static_cast<const char*>(pointer);
  return state().base && p >= state().base && p < state().base + kReserved;
}

// ---- for the tests

EXPORT void null_gpu_launch(const char* kernel) { count_launch(kernel); }
EXPORT void null_gpu_launch_on(const char* kernel, void* stream) {
  count_launch(kernel);
  capture::work(static_cast<cudaStream_t>(stream), kernel);
}

EXPORT void null_gpu_reset() {
  std::lock_guard<std::mutex> lock(mutex);
  auto& s = state();
  s.counts.clear(), s.num_bytes.clear(), s.kernels.clear();
  s.peak = s.live;
  launches = 0;
}

// What a single byte from the device reads as, 0 or 1, for questions like `tensor.all()`; -1: what is there.
EXPORT void null_gpu_answer(int value) { answer = value; }

// A line each: kind, count, bytes; then kernels as "kernel <name>".
EXPORT const char* null_gpu_report() {
  static std::string text;
  std::lock_guard<std::mutex> lock(mutex);
  auto& s = state();
  text = "launches\t" + std::to_string(launches) + "\t0\npeak\t1\t" + std::to_string(s.peak) + "\n";
  for (auto& [kind, times] : s.counts)
    text += kind + "\t" + std::to_string(times) + "\t" + std::to_string(s.num_bytes[kind]) + "\n";
  for (auto& [name, times] : s.kernels) text += "kernel " + name + "\t" + std::to_string(times) + "\t0\n";
  return text.c_str();
}

// ---- device

EXPORT cudaError_t cudaGetDeviceCount(int* n) { return *n = number_from("NULL_GPU_DEVICES", 1), cudaSuccess; }
EXPORT cudaError_t cudaGetDevice(int* d) { return *d = device, cudaSuccess; }
EXPORT cudaError_t cudaSetDevice(int d) { return device = d, cudaSuccess; }
EXPORT cudaError_t cudaDeviceSynchronize() { return synchronise("synchronise device"); }
EXPORT cudaError_t cudaDriverGetVersion(int* v) { return *v = 13000, cudaSuccess; }
EXPORT cudaError_t cudaRuntimeGetVersion(int* v) { return *v = 13000, cudaSuccess; }
EXPORT cudaError_t cudaDeviceCanAccessPeer(int* c, int, int) { return *c = 1, cudaSuccess; }
EXPORT cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* l, int* g) { return *l = 0, *g = -5, cudaSuccess; }
EXPORT cudaError_t cudaDeviceGetPCIBusId(char* s, int n, int d) {
  snprintf(s, n, "0000:%02x:00.0", d + 1);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = kTotalMemory, *free_bytes = kTotalMemory - state().live;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int d) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "null GPU");
  p->totalGlobalMem = kTotalMemory, p->sharedMemPerBlock = 49152, p->regsPerBlock = 65536, p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535, p->totalConstMem = 65536;
  p->major = 9, p->multiProcessorCount = 132, p->canMapHostMemory = p->concurrentKernels = p->unifiedAddressing = 1;
  p->memoryBusWidth = 5120, p->l2CacheSize = 50 << 20, p->maxThreadsPerMultiProcessor = 2048;
  p->streamPrioritiesSupported = p->managedMemory = p->cooperativeLaunch = p->memoryPoolsSupported = 1;
  p->sharedMemPerMultiprocessor = 233472, p->regsPerMultiprocessor = 65536, p->sharedMemPerBlockOptin = 232448;
  p->maxBlocksPerMultiProcessor = 32, p->clusterLaunch = 1, p->textureAlignment = 512, p->pciBusID = d + 1;
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  return *value = attribute(which), cudaSuccess;
}
EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024, a->numRegs = 32, a->ptxVersion = a->binaryVersion = 90;
  a->maxDynamicSharedSizeBytes = 232448;
  return cudaSuccess;
}
EXPORT cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) {
  return *n = 2, cudaSuccess;
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) {
  return *n = 2, cudaSuccess;
}
EXPORT cudaError_t cudaGetLastError() { return cudaSuccess; }
EXPORT cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
  *function = reinterpret_cast<void*>(unused);
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return std::swap(*mode, capture_mode), cudaSuccess;
}

// ---- memory

EXPORT cudaError_t cudaMalloc(void** pointer, size_t num_bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  auto& s = state();
  if (!s.base) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* addresses = mmap(nullptr, kReserved, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (addresses == MAP_FAILED) perror("null GPU: mmap"), abort();
    s.base = s.top = static_cast<char*>(addresses);
  }
  num_bytes = (num_bytes + 511) & ~511ull;
  if (s.live + num_bytes > kTotalMemory) return cudaErrorMemoryAllocation;
  auto& same_size = s.free_blocks[num_bytes];
  if (same_size.empty()) same_size.push_back(s.top), s.top += num_bytes;
  *pointer = same_size.back();
  same_size.pop_back();
  s.blocks[*pointer] = num_bytes;
  s.live += num_bytes;
  s.peak = std::max(s.peak, s.live);
  s.counts["malloc"]++;
  return cudaSuccess;
}
EXPORT cudaError_t cudaFree(void* pointer) {
  if (!pointer) return cudaSuccess;
  std::lock_guard<std::mutex> lock(mutex);
  auto& s = state();
  size_t num_bytes = s.blocks[pointer];
  s.blocks.erase(pointer);
  s.live -= num_bytes;
  s.free_blocks[num_bytes].push_back(static_cast<char*>(pointer));
  s.counts["free"]++;
  madvise(pointer, num_bytes, MADV_DONTNEED);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
EXPORT cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
EXPORT cudaError_t cudaHostRegister(void* p, size_t n, unsigned) {
  std::lock_guard<std::mutex> lock(mutex);
  return state().pinned[p] = n, cudaSuccess;
}
EXPORT cudaError_t cudaHostUnregister(void* p) {
  std::lock_guard<std::mutex> lock(mutex);
  return state().pinned.erase(p), cudaSuccess;
}
EXPORT cudaError_t cudaHostAlloc(void** p, size_t n, unsigned flags) {
  if (has_begun_capture && capture_mode != cudaStreamCaptureModeRelaxed) capture::forbid("malloc of pinned memory");
  *p = aligned_alloc(4096, (n + 4095) & ~4095ull);
  count("malloc of pinned memory", n);
  return cudaHostRegister(*p, n, flags);
}
EXPORT cudaError_t cudaFreeHost(void* p) {
  cudaHostUnregister(p);
  free(p);
  return cudaSuccess;
}
EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  bool on_device = is_device(p);
  std::lock_guard<std::mutex> lock(mutex);
  memset(a, 0, sizeof *a);
  a->device = device;
  if (on_device) a->type = cudaMemoryTypeDevice;
  else a->type = is_pinned(p) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  if (a->type != cudaMemoryTypeUnregistered) a->devicePointer = const_cast<void*>(p);
  if (a->type == cudaMemoryTypeHost) a->hostPointer = const_cast<void*>(p);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) {
  synchronise("synchronise by a copy");
  return copy(to, from, n);
}
EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t s) {
  capture::work(s, "a copy");
  return copy(to, from, n);
}
EXPORT cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t n, cudaStream_t s) {
  capture::work(s, "a copy");
  return copy(to, from, n);
}
EXPORT cudaError_t cudaMemcpy2DAsync(void*, size_t, const void*, size_t, size_t w, size_t h, cudaMemcpyKind,
                                     cudaStream_t s) {
  capture::work(s, "a copy");
  return count("copy in two dimensions", w * h), cudaSuccess;
}
EXPORT cudaError_t cudaMemset(void*, int, size_t n) { return count("memset", n), cudaSuccess; }
EXPORT cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t s) {
  capture::work(s, "memset");
  count_launch("memset");
  if (n <= kLargestRealCopy) memset(p, value, n);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
EXPORT cudaError_t cudaGetSymbolAddress(void** p, const void*) {
  static char symbol[1 << 16];
  return *p = symbol, cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* p, int) { return new_handle(p); }
EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr, void* value) {
  return *static_cast<size_t*>(value) = 0, cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) { return cudaSuccess; }
EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

// ---- streams, events, graphs: all work is done at once, so an event is always over

EXPORT cudaError_t cudaStreamCreate(cudaStream_t* s) { return new_handle(s); }
EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) { return new_handle(s); }
EXPORT cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t) { return synchronise("synchronise stream"); }
EXPORT cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  capture::wait(s, e);
  return count("wait on the device for an event"), cudaSuccess;
}
EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) { return *p = 0, cudaSuccess; }
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  *status = capture::has(s) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, cudaStreamCaptureStatus* status, unsigned long long* id,
                                            cudaGraph_t* graph, const cudaGraphNode_t**, const cudaGraphEdgeData**,
                                            size_t* count) {
  if (id) *id = 7;
  if (count) *count = 0;
  if (graph) *graph = reinterpret_cast<cudaGraph_t>(1);
  return cudaStreamIsCapturing(s, status);
}
EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  has_begun_capture = true, capture_mode = mode;
  return capture::begin(s), cudaSuccess;
}
EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  has_begun_capture = false, capture_mode = cudaStreamCaptureModeGlobal;
  new_handle(graph);
  return capture::end(s);
}
EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t, unsigned long long) {
  return new_handle(exec);
}
EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return count_launch("graph"), cudaSuccess; }
EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* n) { return *n = 1, cudaSuccess; }
EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t function, void* data, unsigned) {
  return function(s, cudaSuccess, data), cudaSuccess;
}
EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
  return function(data), cudaSuccess;
}
EXPORT cudaError_t cudaEventCreate(cudaEvent_t* e) { return new_handle(e); }
EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return new_handle(e); }
EXPORT cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
EXPORT cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { return capture::record(e, s), cudaSuccess; }
EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) {
  return capture::record(e, s), cudaSuccess;
}
EXPORT cudaError_t cudaEventQuery(cudaEvent_t e) {
  if (!capture::has_event(e)) return cudaSuccess;
  return capture::forbid("a question for an event"), cudaErrorCapturedEvent;
}
EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t) { return synchronise("synchronise event"); }
EXPORT cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }

// ---- kernels

EXPORT void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
EXPORT void __cudaUnregisterFatBinary(void**) {}
EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
EXPORT void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*,
                                   int*) {
  std::lock_guard<std::mutex> lock(mutex);
  state().kernel_names[host] = name;
}
EXPORT char __cudaInitModule(void**) { return 1; }

struct CallConfiguration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
static thread_local std::vector<CallConfiguration> configurations;

EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  auto last = configurations.back();
  configurations.pop_back();
  *grid = last.grid, *block = last.block, *shared = last.shared, *static_cast<cudaStream_t*>(stream) = last.stream;
  return cudaSuccess;
}
EXPORT cudaError_t __cudaGetKernel(void** kernel, const void* f) {
  return *kernel = const_cast<void*>(f), cudaSuccess;
}
EXPORT cudaError_t __cudaLaunchKernel(void* f, dim3, dim3, void**, size_t, cudaStream_t s) {
  return launch_function(f, s), cudaSuccess;
}
EXPORT cudaError_t cudaLaunchKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t s) {
  return launch_function(f, s), cudaSuccess;
}
EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* configuration, const void* f, void**) {
  return launch_function(f, configuration->stream), cudaSuccess;
}
EXPORT cudaError_t cudaLaunchCooperativeKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t s) {
  return launch_function(f, s), cudaSuccess;
}

// cuBLAS, cuFFT, cuDNN, cuSOLVER and NCCL on the null GPU. Of cuDNN there is only the handle: its operators are replaced
// in Python (operators.py).
#include <nccl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "capture.h"
#include "counters.h"

namespace {

void new_object(void** handle) { *handle = calloc(1, 64); }

// How many ranks NCCL believes in.
int world_size() {
  const char* text = getenv("WORLD_SIZE");
  return text ? atoi(text) : 1;
}

size_t width(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64: return 8;
    default: return type > ncclBfloat16 ? 1 : 4;
  }
}

constexpr size_t kLargestRealCopy = 1 << 20;

// The other ranks send what this one sends: the result is the local part, once or side by side.
ncclResult_t collective(const char* name, const void* from, void* to, size_t num_bytes, cudaStream_t stream,
                        int copies = 1) {
  capture::work(stream, name);
  count_launch(name);
  count(name, num_bytes);
  if (num_bytes && !(is_device(from) && is_device(to))) count("host memory for NCCL", num_bytes);
  for (int part = 0; part < copies; part++) {
    char* place = static_cast<char*>(to) + part * num_bytes;
    if (place != from && num_bytes * copies <= kLargestRealCopy) memmove(place, from, num_bytes);
  }
  return ncclSuccess;
}

// Several of them are one launch together. What is received stays as it was.
ncclResult_t point_to_point(const char* name, const void* memory, size_t num_bytes, cudaStream_t stream) {
  capture::work(stream, name);
  count(name, num_bytes);
  if (num_bytes && !is_device(memory)) count("host memory for NCCL", num_bytes);
  return ncclSuccess;
}

}  // namespace

// ---- NCCL

EXPORT ncclResult_t ncclGetVersion(int* version) { return *version = 22809, ncclSuccess; }
EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return memset(id, 1, sizeof *id), ncclSuccess; }
EXPORT ncclResult_t ncclCommInitRank(ncclComm_t* c, int, ncclUniqueId, int) {
  return new_object(reinterpret_cast<void**>(c)), ncclSuccess;
}
EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* c, int, ncclUniqueId, int, ncclConfig_t*) {
  return new_object(reinterpret_cast<void**>(c)), ncclSuccess;
}
EXPORT ncclResult_t ncclCommInitRankScalable(ncclComm_t* c, int, int, int, ncclUniqueId*, ncclConfig_t*) {
  return new_object(reinterpret_cast<void**>(c)), ncclSuccess;
}
EXPORT ncclResult_t ncclCommSplit(ncclComm_t, int, int, ncclComm_t* c, ncclConfig_t*) {
  return new_object(reinterpret_cast<void**>(c)), ncclSuccess;
}
EXPORT ncclResult_t ncclCommDestroy(ncclComm_t) { return ncclSuccess; }
EXPORT ncclResult_t ncclCommAbort(ncclComm_t) { return ncclSuccess; }
EXPORT ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* r) { return *r = ncclSuccess; }
EXPORT ncclResult_t ncclCommCount(ncclComm_t, int* n) { return *n = world_size(), ncclSuccess; }
EXPORT ncclResult_t ncclCommUserRank(ncclComm_t, int* n) { return *n = 0, ncclSuccess; }
EXPORT ncclResult_t ncclCommRegister(const ncclComm_t, void*, size_t, void** h) { return new_object(h), ncclSuccess; }
EXPORT ncclResult_t ncclCommDeregister(const ncclComm_t, void*) { return ncclSuccess; }
EXPORT const char* ncclGetErrorString(ncclResult_t) { return "null GPU"; }
EXPORT const char* ncclGetLastError(ncclComm_t) { return "null GPU"; }
EXPORT ncclResult_t ncclGroupStart() { return ncclSuccess; }
EXPORT ncclResult_t ncclGroupEnd() { return ncclSuccess; }
EXPORT ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void*, ncclDataType_t, ncclScalarResidence_t,
                                             ncclComm_t) {
  return *op = ncclSum, ncclSuccess;
}
EXPORT ncclResult_t ncclRedOpDestroy(ncclRedOp_t, ncclComm_t) { return ncclSuccess; }

EXPORT ncclResult_t ncclAllReduce(const void* from, void* to, size_t n, ncclDataType_t type, ncclRedOp_t, ncclComm_t,
                                  cudaStream_t s) {
  return collective("all-reduce", from, to, n * width(type), s);
}
EXPORT ncclResult_t ncclAllGather(const void* from, void* to, size_t n, ncclDataType_t type, ncclComm_t,
                                  cudaStream_t s) {
  return collective("all-gather", from, to, n * width(type), s, world_size());
}
EXPORT ncclResult_t ncclReduceScatter(const void* from, void* to, size_t n, ncclDataType_t type, ncclRedOp_t,
                                      ncclComm_t, cudaStream_t s) {
  return collective("reduce-scatter", from, to, n * width(type), s);
}
EXPORT ncclResult_t ncclBroadcast(const void* from, void* to, size_t n, ncclDataType_t type, int, ncclComm_t,
                                  cudaStream_t s) {
  return collective("broadcast", from, to, n * width(type), s);
}
EXPORT ncclResult_t ncclBcast(void* buffer, size_t n, ncclDataType_t type, int, ncclComm_t, cudaStream_t s) {
  return collective("broadcast", buffer, buffer, n * width(type), s);
}
EXPORT ncclResult_t ncclReduce(const void* from, void* to, size_t n, ncclDataType_t type, ncclRedOp_t, int, ncclComm_t,
                               cudaStream_t s) {
  return collective("reduce", from, to, n * width(type), s);
}
EXPORT ncclResult_t ncclAlltoAll(const void* from, void* to, size_t n, ncclDataType_t type, ncclComm_t, cudaStream_t s) {
  return collective("all-to-all", from, to, n * width(type) * world_size(), s);
}
EXPORT ncclResult_t ncclSend(const void* from, size_t n, ncclDataType_t type, int, ncclComm_t, cudaStream_t s) {
  return point_to_point("send", from, n * width(type), s);
}
EXPORT ncclResult_t ncclRecv(void* to, size_t n, ncclDataType_t type, int, ncclComm_t, cudaStream_t s) {
  return point_to_point("receive", to, n * width(type), s);
}

// ---- calls that give something back

EXPORT int cufftXtMakePlanMany(int, int, long long*, long long*, long long, long long, int, long long*, long long,
                               long long, int, long long, size_t* workspace, int) {
  return *workspace = 0, 0;
}
EXPORT int cufftCreate(int* plan) { return *plan = 1, 0; }
EXPORT int cublasCreate_v2(void** handle) { return new_object(handle), 0; }
EXPORT int cublasGetPointerMode_v2(void*, int* mode) { return *mode = 0, 0; }
EXPORT int cublasGetMathMode(void*, int* mode) { return *mode = 0, 0; }
EXPORT size_t cublasLtGetVersion() { return 130100; }
EXPORT int cublasLtMatmulDescCreate(void** object, int, int) { return new_object(object), 0; }
EXPORT int cublasLtMatmulDescDestroy(void* object) { return free(object), 0; }
EXPORT int cublasLtMatmulPreferenceCreate(void** object) { return new_object(object), 0; }
EXPORT int cublasLtMatmulPreferenceDestroy(void* object) { return free(object), 0; }
EXPORT int cublasLtMatrixLayoutCreate(void** object, int, unsigned long, unsigned long, long) {
  return new_object(object), 0;
}
EXPORT int cublasLtMatrixLayoutDestroy(void* object) { return free(object), 0; }
EXPORT int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void* result,
                                          int* found) {
  memset(result, 0, 96);
  return *found = 1, 0;
}
EXPORT int cudnnCreate(void** handle) { return new_object(handle), 0; }
EXPORT int cusolverDnCreate(void** handle) { return new_object(handle), 0; }

// ---- the rest: what computes is a launch, what sets something up is not. Arguments are not looked at.

#define COMPUTES(name) \
  EXPORT int name() { return count_launch(#name), 0; }
#define SETS_UP(name) \
  EXPORT int name() { return 0; }

// clang-format off
COMPUTES(cublasCaxpy_v2) COMPUTES(cublasCdotc_v2) COMPUTES(cublasCdotu_v2) COMPUTES(cublasCgemmBatched)
COMPUTES(cublasCgemmStridedBatched) COMPUTES(cublasCgemm_v2) COMPUTES(cublasCgemv_v2) COMPUTES(cublasCscal_v2)
COMPUTES(cublasCsscal_v2) COMPUTES(cublasCtrsmBatched) COMPUTES(cublasCtrsm_v2) COMPUTES(cublasDaxpy_v2)
COMPUTES(cublasDdot_v2) COMPUTES(cublasDgemmBatched) COMPUTES(cublasDgemmStridedBatched) COMPUTES(cublasDgemm_v2)
COMPUTES(cublasDgemv_v2) COMPUTES(cublasDscal_v2) COMPUTES(cublasDtrsmBatched) COMPUTES(cublasDtrsm_v2)
COMPUTES(cublasGemmEx) COMPUTES(cublasGemmStridedBatchedEx) COMPUTES(cublasLtMatmul) COMPUTES(cublasSaxpy_v2)
COMPUTES(cublasSdot_v2) COMPUTES(cublasSgemmBatched) COMPUTES(cublasSgemmEx) COMPUTES(cublasSgemmStridedBatched)
COMPUTES(cublasSgemm_v2) COMPUTES(cublasSgemv_v2) COMPUTES(cublasSscal_v2) COMPUTES(cublasStrsmBatched)
COMPUTES(cublasStrsm_v2) COMPUTES(cublasZaxpy_v2) COMPUTES(cublasZdotc_v2) COMPUTES(cublasZdotu_v2)
COMPUTES(cublasZdscal_v2) COMPUTES(cublasZgemmBatched) COMPUTES(cublasZgemmStridedBatched) COMPUTES(cublasZgemm_v2)
COMPUTES(cublasZgemv_v2) COMPUTES(cublasZscal_v2) COMPUTES(cublasZtrsmBatched) COMPUTES(cublasZtrsm_v2)
COMPUTES(cufftXtExec)

SETS_UP(cublasCcopy_v2) SETS_UP(cublasCgelsBatched) SETS_UP(cublasCgeqrfBatched) SETS_UP(cublasCgerc_v2)
SETS_UP(cublasCgeru_v2) SETS_UP(cublasCgetrfBatched) SETS_UP(cublasCgetrsBatched) SETS_UP(cublasChemm_v2)
SETS_UP(cublasChemv_v2) SETS_UP(cublasCher2_v2) SETS_UP(cublasCher2k_v2) SETS_UP(cublasCher_v2)
SETS_UP(cublasCherk_v2) SETS_UP(cublasCrot_v2) SETS_UP(cublasCrotg_v2) SETS_UP(cublasCsrot_v2) SETS_UP(cublasCswap_v2)
SETS_UP(cublasCsymm_v2) SETS_UP(cublasCsymv_v2) SETS_UP(cublasCsyr2_v2) SETS_UP(cublasCsyr2k_v2)
SETS_UP(cublasCsyr_v2) SETS_UP(cublasCsyrk_v2) SETS_UP(cublasCtrmm_v2) SETS_UP(cublasCtrmv_v2) SETS_UP(cublasCtrsv_v2)
SETS_UP(cublasDasum_v2) SETS_UP(cublasDcopy_v2) SETS_UP(cublasDestroy_v2) SETS_UP(cublasDgelsBatched)
SETS_UP(cublasDgeqrfBatched) SETS_UP(cublasDger_v2) SETS_UP(cublasDgetrfBatched) SETS_UP(cublasDgetrsBatched)
SETS_UP(cublasDnrm2_v2) SETS_UP(cublasDotEx) SETS_UP(cublasDrot_v2) SETS_UP(cublasDrotg_v2) SETS_UP(cublasDrotm_v2)
SETS_UP(cublasDrotmg_v2) SETS_UP(cublasDswap_v2) SETS_UP(cublasDsymm_v2) SETS_UP(cublasDsymv_v2)
SETS_UP(cublasDsyr2_v2) SETS_UP(cublasDsyr2k_v2) SETS_UP(cublasDsyr_v2) SETS_UP(cublasDsyrk_v2)
SETS_UP(cublasDtrmm_v2) SETS_UP(cublasDtrmv_v2) SETS_UP(cublasDtrsv_v2) SETS_UP(cublasDzasum_v2)
SETS_UP(cublasDznrm2_v2) SETS_UP(cublasGetMatrixAsync) SETS_UP(cublasGetVectorAsync) SETS_UP(cublasIcamax_v2)
SETS_UP(cublasIcamin_v2) SETS_UP(cublasIdamax_v2) SETS_UP(cublasIdamin_v2) SETS_UP(cublasIsamax_v2)
SETS_UP(cublasIsamin_v2) SETS_UP(cublasIzamax_v2) SETS_UP(cublasIzamin_v2) SETS_UP(cublasLtMatmulDescSetAttribute)
SETS_UP(cublasLtMatmulPreferenceSetAttribute) SETS_UP(cublasLtMatrixLayoutSetAttribute) SETS_UP(cublasSasum_v2)
SETS_UP(cublasScasum_v2) SETS_UP(cublasScnrm2_v2) SETS_UP(cublasScopy_v2) SETS_UP(cublasSetMathMode)
SETS_UP(cublasSetMatrixAsync) SETS_UP(cublasSetPointerMode_v2) SETS_UP(cublasSetStream_v2)
SETS_UP(cublasSetVectorAsync) SETS_UP(cublasSetWorkspace_v2) SETS_UP(cublasSgelsBatched) SETS_UP(cublasSgeqrfBatched)
SETS_UP(cublasSger_v2) SETS_UP(cublasSgetrfBatched) SETS_UP(cublasSgetrsBatched) SETS_UP(cublasSnrm2_v2)
SETS_UP(cublasSrot_v2) SETS_UP(cublasSrotg_v2) SETS_UP(cublasSrotm_v2) SETS_UP(cublasSrotmg_v2)
SETS_UP(cublasSswap_v2) SETS_UP(cublasSsymm_v2) SETS_UP(cublasSsymv_v2) SETS_UP(cublasSsyr2_v2)
SETS_UP(cublasSsyr2k_v2) SETS_UP(cublasSsyr_v2) SETS_UP(cublasSsyrk_v2) SETS_UP(cublasStrmm_v2)
SETS_UP(cublasStrmv_v2) SETS_UP(cublasStrsv_v2) SETS_UP(cublasZcopy_v2) SETS_UP(cublasZdrot_v2)
SETS_UP(cublasZgelsBatched) SETS_UP(cublasZgeqrfBatched) SETS_UP(cublasZgerc_v2) SETS_UP(cublasZgeru_v2)
SETS_UP(cublasZgetrfBatched) SETS_UP(cublasZgetrsBatched) SETS_UP(cublasZhemm_v2) SETS_UP(cublasZhemv_v2)
SETS_UP(cublasZher2_v2) SETS_UP(cublasZher2k_v2) SETS_UP(cublasZher_v2) SETS_UP(cublasZherk_v2) SETS_UP(cublasZrot_v2)
SETS_UP(cublasZrotg_v2) SETS_UP(cublasZswap_v2) SETS_UP(cublasZsymm_v2) SETS_UP(cublasZsymv_v2)
SETS_UP(cublasZsyr2_v2) SETS_UP(cublasZsyr2k_v2) SETS_UP(cublasZsyr_v2) SETS_UP(cublasZsyrk_v2)
SETS_UP(cublasZtrmm_v2) SETS_UP(cublasZtrmv_v2) SETS_UP(cublasZtrsv_v2) SETS_UP(cufftDestroy)
SETS_UP(cufftSetAutoAllocation) SETS_UP(cufftSetStream) SETS_UP(cufftSetWorkArea)

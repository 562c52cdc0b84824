// What a stream capture sees: which streams take part, and whether a GPU could record what is asked of it.
#pragma once
#include <cuda_runtime_api.h>

#include <string>

namespace capture {

void begin(cudaStream_t origin);
// cudaErrorStreamCaptureInvalidated, with the reasons on standard error, where a GPU could not have recorded it.
cudaError_t end(cudaStream_t origin);
bool is_running();
bool has(cudaStream_t stream);
// A kernel, a copy or a collective.
void work(cudaStream_t stream, const char* name);
void record(cudaEvent_t event, cudaStream_t stream);
void wait(cudaStream_t stream, cudaEvent_t event);
bool has_event(cudaEvent_t event);
// What no capture allows.
void forbid(const std::string& what);

}  // namespace capture

// Streams take part from the moment they wait for an event of one that does, and must be waited for before the end.
#define CUDARTAPI
#include "capture.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <set>

namespace {

using Known = std::map<cudaStream_t, long>;  // of each stream, up to which of its works

std::mutex mutex;
bool running = false;
std::map<cudaStream_t, long> works;  // of the streams that take part
std::map<cudaStream_t, Known> known;
std::map<cudaEvent_t, Known> events;      // recorded in streams that take part
std::set<cudaEvent_t> recorded_outside;   // all others that have been recorded
std::set<std::string> faults;

void merge(Known& into, const Known& from) {
  for (auto& [stream, number] : from) into[stream] = std::max(into[stream], number);
}

}  // namespace

namespace capture {

void begin(cudaStream_t origin) {
  std::lock_guard<std::mutex> lock(mutex);
  running = true;
  works.clear(), known.clear(), faults.clear();
  for (auto& [event, _] : events) recorded_outside.insert(event);
  events.clear();
  works[origin] = 0, known[origin][origin] = 0;
  if (origin == nullptr) faults.insert("the default stream cannot be recorded");
}

cudaError_t end(cudaStream_t origin) {
  std::lock_guard<std::mutex> lock(mutex);
  running = false;
  for (auto& [stream, number] : works)
    if (known[origin][stream] < number) faults.insert("work of another stream that nobody waits for");
  for (auto& fault : faults) fprintf(stderr, "null GPU: in a recording: %s\n", fault.c_str());
  return faults.empty() ? cudaSuccess : cudaErrorStreamCaptureInvalidated;
}

bool is_running() {
  std::lock_guard<std::mutex> lock(mutex);
  return running;
}

bool has(cudaStream_t stream) {
  std::lock_guard<std::mutex> lock(mutex);
  return running && works.count(stream);
}

void work(cudaStream_t stream, const char* name) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!running) return;
  if (works.count(stream)) known[stream][stream] = ++works[stream];
  else faults.insert(std::string(name) + " on a stream that is not recorded");
}

void record(cudaEvent_t event, cudaStream_t stream) {
  std::lock_guard<std::mutex> lock(mutex);
  if (running && works.count(stream)) events[event] = known[stream], recorded_outside.erase(event);
  else recorded_outside.insert(event), events.erase(event);
}

void wait(cudaStream_t stream, cudaEvent_t event) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!running) return;
  auto found = events.find(event);
  if (found != events.end()) {
    if (stream == nullptr) faults.insert("the default stream waits for a recorded one");
    works.insert({stream, 0});
    merge(known[stream], found->second);
  } else if (works.count(stream) && recorded_outside.count(event)) {
    faults.insert("a recorded stream waits for an event from outside");
  }
}

bool has_event(cudaEvent_t event) {
  std::lock_guard<std::mutex> lock(mutex);
  return running && events.count(event);
}

void forbid(const std::string& what) {
  std::lock_guard<std::mutex> lock(mutex);
  if (running) faults.insert(what);
}

}  // namespace capture

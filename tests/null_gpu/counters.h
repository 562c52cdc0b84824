// What is counted, for all sources of the null GPU.
#pragma once
#include <cstddef>

#define EXPORT extern "C" __attribute__((visibility("default")))

void count(const char* what, size_t num_bytes = 0);
void count_launch(const char* kernel);
bool is_device(const void* pointer);

// Runs a list of kernels one after the other, all threads together: they are woken once for the whole list.
#include "kernel.h"

struct Call {
    void (*kernel)(const void*);
    int64_t arguments[CALL - 1];
};

extern "C" void run(const Call* calls, int64_t count, int64_t threads) {
#pragma omp parallel num_threads(threads)
    for (int64_t i = 0; i < count; i++) calls[i].kernel(calls[i].arguments);
}

#define NAMED(name, number) #name "=" #number ";"
extern "C" const char* constants() { return CONSTANTS(NAMED); }

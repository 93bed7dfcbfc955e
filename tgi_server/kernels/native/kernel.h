// What Python and the kernels have to agree on (layout.py): constants, and the members of each kernel's arguments.
//
// A kernel takes one struct of pointers and 8-byte numbers, as Python packs it (calls.py). All threads call it together
// (calls.cpp): what they share are its `omp for` loops, each of which ends when all are done.
#pragma once
#include <cstdint>

#define CONSTANTS(constant)                                                                                   \
    constant(BLOCK, 16)   /* positions in a cache block: one or two vectors of scores */                      \
    constant(PANEL, 32)   /* outputs whose weights lie side by side in a packed weight */                     \
    constant(WIDEST, 256) /* numbers in a head of keys or of values */                                        \
    constant(CALL, 32)    /* 8-byte fields of a call: the kernel's address and room for its arguments */
#define CONSTANT(name, number) static const long name = number;
CONSTANTS(CONSTANT)

// The members that LIST(member) names by member(type, name), and their description for Python.
#define MEMBERS(LIST)                  \
    LIST(DECLARED)                     \
    static const long COUNT = LIST(COUNTED); \
    static const char* layout() { return LIST(DESCRIBED); }
#define DECLARED(type, name)                                  \
    type name;                                                \
    static_assert(sizeof(type) == 8, #name " is not 8 bytes");
#define COUNTED(type, name) +1
#define DESCRIBED(type, name) #name "=" #type ";"

// The kernel `function` for one type, under a name that Python finds; what follows is its struct of arguments.
#define KERNEL(function, type, ...)                                                                               \
    static_assert(sizeof(__VA_ARGS__) == 8 * __VA_ARGS__::COUNT && __VA_ARGS__::COUNT < CALL, "too many members"); \
    extern "C" const char* function##_##type##_layout() { return __VA_ARGS__::layout(); }                         \
    extern "C" void function##_##type(const void* arguments) {                                                    \
        function(*static_cast<const __VA_ARGS__*>(arguments));                                                    \
    }

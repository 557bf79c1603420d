/* mmap past the address sanitizer, which would clear the shadow of every reserved gigabyte. */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define mmap(...) ((void *)syscall(SYS_mmap, __VA_ARGS__))
#define munmap(...) ((int)syscall(SYS_munmap, __VA_ARGS__))

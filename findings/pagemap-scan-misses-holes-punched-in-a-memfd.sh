#!/usr/bin/env bash
# PAGEMAP_SCAN reports pages given back by MADV_DONTNEED as written, but not pages given back in a shared memfd.
#
# Version:   Linux 6.18 (PAGEMAP_SCAN with UFFD_FEATURE_WP_ASYNC is there since 6.7)
# Expected:  a page that the tracked process itself gives back (a balloon or free page reporting does) and that reads as
#            zeros from then on has changed, so PAGE_IS_WRITTEN is set, or for no kind of memory it is.
# Behaviour: it depends on the memory. Anonymous: MADV_DONTNEED reports the page. A shared memfd, where discarding is
#            MADV_REMOVE or fallocate(PUNCH_HOLE): the content becomes zero, nothing is reported, then or after a read.
#            A delta built from such a scan keeps the old bytes of every page that the guest gave back.
# Output seen:
#   anonymous, MADV_DONTNEED:      byte 1 -> 0, pages written 1
#   memfd, MADV_REMOVE:            byte 1 -> 0, pages written 0
#   memfd, PUNCH_HOLE:             byte 1 -> 0, pages written 0
#   memfd, a store (for control):  byte 1 -> 2, pages written 1
set -eu
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT; cd "$tmp"
cat >look.c <<'C'
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 16, LENGTH = PAGES * PAGE };
struct region { uint64_t start, end, categories; };
struct scan { uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, any_of, wanted; };

/* Pages written since the last scan; they are write-protected again. */
static int written(int pagemap, char *memory) {
    struct region found[PAGES];
    struct scan s = { .size = sizeof s, .flags = 3 /* WP_MATCHING, CHECK_WPASYNC */, .start = (uintptr_t)memory, .end = (uintptr_t)memory + LENGTH,
        .vec = (uintptr_t)found, .vec_len = PAGES, .mask = 2 /* PAGE_IS_WRITTEN */, .wanted = 2 };
    int pages = 0, regions = ioctl(pagemap, _IOWR('f', 16, struct scan), &s);
    if (regions < 0) { perror("PAGEMAP_SCAN"); return -1; }
    for (int i = 0; i < regions; i++) pages += (found[i].end - found[i].start) / PAGE;
    return pages;
}

int main(void) {
    int pagemap = open("/proc/self/pagemap", O_RDONLY), uffd = syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* user mode only */);
    struct { uint64_t api, features, ioctls; } api = { 0xAA, 1 << 15 | 1 << 13 /* WP_ASYNC, WP_UNPOPULATED */, 0 };
    if (pagemap < 0 || uffd < 0 || ioctl(uffd, _IOWR(0xAA, 0x3F, api), &api)) { perror("userfaultfd"); return 2; }
    const char *names[] = { "anonymous, MADV_DONTNEED:", "memfd, MADV_REMOVE:", "memfd, PUNCH_HOLE:", "memfd, a store (for control):" };
    const int expected[4][2] = { { 0, 1 }, { 0, 0 }, { 0, 0 }, { 2, 1 } };
    int changed = 0;
    for (int i = 0; i < 4; i++) {
        int fd = i ? memfd_create("ram", 0) : -1;
        if (i && ftruncate(fd, LENGTH)) return 2;
        char *memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, i ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
        memset(memory, 1, LENGTH);
        struct { uint64_t start, length, mode, ioctls; } range = { (uintptr_t)memory, LENGTH, 2 /* write-protect */, 0 };
        if (ioctl(uffd, _IOWR(0xAA, 0, range), &range)) { perror("UFFDIO_REGISTER"); return 2; }
        written(pagemap, memory);
        if (written(pagemap, memory) != 0) return 2;
        char *page = memory + 5 * PAGE;
        if (i == 0) madvise(page, PAGE, MADV_DONTNEED);
        if (i == 1) madvise(page, PAGE, MADV_REMOVE);
        if (i == 2 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page - memory, PAGE)) return 2;
        if (i == 3) *page = 2;
        int byte = *(volatile char *)page, pages = written(pagemap, memory);
        printf("%-30s byte 1 -> %d, pages written %d\n", names[i], byte, pages);
        changed |= byte != expected[i][0] || pages != expected[i][1];
    }
    if (changed) puts("changed");
    return changed;
}
C
cc -Wall -O1 -o look look.c
./look

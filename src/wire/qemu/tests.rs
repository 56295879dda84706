//! What reading and writing a QEMU stream promise.

//! A program that runs in a QEMU: it counts, writes all over its memory as it goes, and says how
//! far it is, so that a test can see whether it went on where it was.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::{Dice, Folder};

/// It says at regular intervals how far it is.
const STEPS_PER_LINE: u32 = 0x1000;

/// Where the counter of steps is: the number of the step that is being done.
const COUNTER: usize = 0x600;

/// Every step writes into every page from here to [`SWEEP_END`].
const SWEEP_START: usize = 0x1_0000;
const SWEEP_END: usize = 0x8_0000;

/// The boot sector, which the firmware loads to 0x7c00 and jumps to in real mode. A step counts,
/// and writes its number into every page of the sweep, at an offset that moves on by 4 bytes with
/// each step. After every [`STEPS_PER_LINE`] steps their number goes to the first serial port,
/// in 8 hexadecimal digits.
#[rustfmt::skip]
const CODE: &[u8] = &[
    0xfa,                               // 00        cli                     no interrupts
    0x66, 0x31, 0xc0,                   // 01        xor  eax, eax
    0x8e, 0xd8,                         // 04        mov  ds, ax
    0x8e, 0xd0,                         // 06        mov  ss, ax
    0xbc, 0x00, 0x70,                   // 08        mov  sp, 0x7000         no stack beside code
    0x66, 0xa3, 0x00, 0x06,             // 0b        mov  [0x600], eax
    0x66, 0xff, 0x06, 0x00, 0x06,       // 0f step:  inc  dword [0x600]
    0x66, 0xa1, 0x00, 0x06,             // 14        mov  eax, [0x600]
    0x89, 0xc7,                         // 18        mov  di, ax
    0xc1, 0xe7, 0x02,                   // 1a        shl  di, 2
    0x81, 0xe7, 0xfc, 0x0f,             // 1d        and  di, 0xffc
    0xbb, 0x00, 0x10,                   // 21        mov  bx, 0x1000         segment of the start
    0x8e, 0xc3,                         // 24 sweep: mov  es, bx
    0x26, 0x66, 0x89, 0x05,             // 26        mov  es:[di], eax
    0x81, 0xc3, 0x00, 0x01,             // 2a        add  bx, 0x100          the next page
    0x81, 0xfb, 0x00, 0x80,             // 2e        cmp  bx, 0x8000         segment of the end
    0x72, 0xf0,                         // 32        jb   sweep
    0xa9, 0xff, 0x0f,                   // 34        test ax, 0xfff          steps per line - 1
    0x75, 0xd6,                         // 37        jnz  step
    0x66, 0x89, 0xc3,                   // 39        mov  ebx, eax
    0xb9, 0x08, 0x00,                   // 3c        mov  cx, 8
    0x66, 0xc1, 0xc3, 0x04,             // 3f digit: rol  ebx, 4
    0x88, 0xd8,                         // 43        mov  al, bl
    0x24, 0x0f,                         // 45        and  al, 0x0f
    0x04, 0x30,                         // 47        add  al, '0'
    0x3c, 0x3a,                         // 49        cmp  al, '9' + 1
    0x72, 0x02,                         // 4b        jb   say
    0x04, 0x27,                         // 4d        add  al, 'a' - '9' - 1
    0xe8, 0x09, 0x00,                   // 4f say:   call put
    0xe2, 0xeb,                         // 52        loop digit
    0xb0, 0x0a,                         // 54        mov  al, '\n'
    0xe8, 0x02, 0x00,                   // 56        call put
    0xeb, 0xb4,                         // 59        jmp  step
    0x88, 0xc4,                         // 5b put:   mov  ah, al
    0xba, 0xfd, 0x03,                   // 5d        mov  dx, 0x3fd          line status
    0xec,                               // 60 wait:  in   al, dx
    0xa8, 0x20,                         // 61        test al, 0x20           can take a byte
    0x74, 0xfb,                         // 63        jz   wait
    0xba, 0xf8, 0x03,                   // 65        mov  dx, 0x3f8          data
    0x88, 0xe0,                         // 68        mov  al, ah
    0xee,                               // 6a        out  dx, al
    0xc3,                               // 6b        ret
];

/// Where the reader of a disk counts what it has read.
const READS: usize = 0x610;

/// A boot sector that reads its disk, 32 KiB at a time over and over, into the memory from [`SWEEP_START`]
/// to [`SWEEP_END`]. What it asks the firmware for is described at 0x600.
#[rustfmt::skip]
const READER: &[u8] = &[
    0xfa,                               // 00        cli
    0x66, 0x31, 0xc0,                   // 01        xor  eax, eax
    0x8e, 0xd8,                         // 04        mov  ds, ax
    0x8e, 0xd0,                         // 06        mov  ss, ax
    0xbc, 0x00, 0x70,                   // 08        mov  sp, 0x7000
    0xfb,                               // 0b        sti
    0x66, 0xc7, 0x06, 0x00, 0x06,       // 0c        mov  dword [0x600], 0x400010
    0x10, 0x00, 0x40, 0x00,             //                                   64 sectors
    0x66, 0xc7, 0x06, 0x04, 0x06,       // 15        mov  dword [0x604], 0x10000000
    0x00, 0x00, 0x00, 0x10,             //                                   to segment 0x1000
    0x66, 0xa3, 0x08, 0x06,             // 1e        mov  [0x608], eax       from sector 0
    0x66, 0xa3, 0x0c, 0x06,             // 22        mov  [0x60c], eax
    0x66, 0xa3, 0x10, 0x06,             // 26        mov  [0x610], eax
    0xb4, 0x42,                         // 2a next:  mov  ah, 0x42
    0xb2, 0x80,                         // 2c        mov  dl, 0x80
    0xbe, 0x00, 0x06,                   // 2e        mov  si, 0x600
    0xcd, 0x13,                         // 31        int  0x13
    0x72, 0xf5,                         // 33        jc   next
    0x66, 0xff, 0x06, 0x10, 0x06,       // 35        inc  dword [0x610]
    0x83, 0x06, 0x08, 0x06, 0x40,       // 3a        add  word [0x608], 64
    0x81, 0x26, 0x08, 0x06, 0xff, 0x1f, // 3f        and  word [0x608], 0x1fff
    0x81, 0x06, 0x06, 0x06, 0x00, 0x08, // 45        add  word [0x606], 0x800
    0x81, 0x3e, 0x06, 0x06, 0x00, 0x80, // 4b        cmp  word [0x606], 0x8000
    0x72, 0xd7,                         // 51        jb   next
    0xc7, 0x06, 0x06, 0x06, 0x00, 0x10, // 53        mov  word [0x606], 0x1000
    0xeb, 0xcf,                         // 59        jmp  next
];

/// A hard disk of 4 MiB that boots the reader.
pub(crate) fn reader_disk(folder: &Folder) -> PathBuf {
    let mut disk = boot_sector(READER);
    let mut dice = Dice::new(12);
    while disk.len() < 4 << 20 {
        disk.extend_from_slice(&dice.next().to_le_bytes());
    }
    let path = folder.path("disk");
    std::fs::write(&path, disk).unwrap();
    path
}

/// How often the reader has read, by its RAM.
pub(crate) fn reads(ram: &Path) -> u32 {
    let mut bytes = [0; 4];
    let ram = std::fs::File::open(ram).unwrap();
    ram.read_exact_at(&mut bytes, READS as u64).unwrap();
    u32::from_le_bytes(bytes)
}

fn boot_sector(code: &[u8]) -> Vec<u8> {
    let mut sector = code.to_vec();
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    sector
}

/// A floppy disk that boots the program.
pub(crate) fn boot_floppy(folder: &Folder) -> PathBuf {
    let path = folder.path("floppy");
    std::fs::write(&path, boot_sector(CODE)).unwrap();
    path
}

/// Asserts that what came from the serial ports, one after the other as the guest moved, is one
/// count without a gap or a step back. How many whole lines it is.
#[track_caller]
pub(crate) fn assert_continues(texts: &[&str]) -> usize {
    let text = texts.concat();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for (index, line) in whole.lines().enumerate() {
        let steps = (index as u32 + 1) * STEPS_PER_LINE;
        assert_eq!(line, format!("{steps:08x}"), "line {index} of {texts:?}");
    }
    whole.lines().count()
}

/// Asserts that the RAM of a stopped guest is that of one moment: the pages of the sweep up to
/// some place are of the step that the counter names, the rest of the step before. The counter.
#[track_caller]
pub(crate) fn assert_one_moment(ram: &[u8]) -> u32 {
    let number = |at: usize| u32::from_le_bytes(ram[at..at + 4].try_into().unwrap());
    let counter = number(COUNTER);
    assert_ne!(counter, 0, "it has begun");
    let mut step = counter;
    for page in (SWEEP_START..SWEEP_END).step_by(0x1000) {
        let slot = |step: u32| page + ((step as usize) << 2 & 0xffc);
        if step == counter && number(slot(counter)) != counter {
            step -= 1;
        }
        // A page holds the last 1024 steps; earlier than the first, it is not known what.
        for written in step.saturating_sub(1023).max(1)..=step {
            assert_eq!(
                number(slot(written)),
                written,
                "{page:#x} at step {counter}"
            );
        }
        let next = number(slot(step + 1));
        assert!(next <= step, "{page:#x} has {next} at step {counter}");
    }
    counter
}

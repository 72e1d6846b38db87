// SPDX-License-Identifier: BSD-3-Clause
// Rust without std: strings, closures, slices with bounds checks, a panic that ends the overlay alone.
#![no_std]

use core::ffi::{c_char, c_int};
use core::panic::PanicInfo;

extern "C" {
    fn puts(s: *const c_char) -> c_int;
    fn abort() -> !;
    static mut app_counter: i64;
}

#[panic_handler]
fn panic(_: &PanicInfo) -> ! {
    unsafe { abort() }
}

// core was compiled for unwinding, which never happens here.
#[no_mangle]
pub extern "C" fn rust_eh_personality() {}

static WORDS: [&str; 3] = ["red\0", "green\0", "blue\0"];
static mut CALLS: usize = 0;

#[no_mangle]
pub extern "C" fn main(argc: c_int, _argv: *const *const c_char) -> c_int {
    let sum: i32 = (1..=10).map(|n| n * n).filter(|n| n & 1 == 1).sum();
    unsafe {
        CALLS += 1;
        app_counter += sum as i64;
        // Out of bounds for two arguments: a panic.
        puts(WORDS[(argc as usize) + CALLS].as_ptr() as *const c_char);
    }
    sum
}

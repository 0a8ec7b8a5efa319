//! Chance and the time of day of this process, decided by the seed: the functions of the C
//! library that all crates ask in the end, ours, std's maps and the makers of keys included.
//!
//! Only the thread that asked for it is answered from the seed. Other threads, which are
//! sled's, and everybody before that get what the system says.

#![allow(unsafe_code, reason = "functions of the C library are replaced here")]

use libc::{c_char, c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

thread_local! {
    static CHANCE: RefCell<Option<ChaCha8Rng>> = const { RefCell::new(None) };
    static NOW: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// From here on this thread's random bytes are those of `seed`.
pub(crate) fn seed(seed: u64) {
    CHANCE.set(Some(ChaCha8Rng::seed_from_u64(seed)));
}

/// From here on this thread's time of day is so long after 1970.
pub(crate) fn set_time(since_epoch: Duration) {
    NOW.set(Some(since_epoch));
}

/// Whether the seed filled `buffer`.
///
/// # Safety
/// `buffer` must be writable for `length` bytes.
unsafe fn fill_from_seed(buffer: *mut c_void, length: size_t) -> bool {
    if buffer.is_null() || length == 0 {
        return false;
    }
    let filled = CHANCE.try_with(|chance| {
        let mut chance = chance.borrow_mut();
        let chance = chance.as_mut()?;
        // SAFETY: the caller's promise; every byte is written before it is read.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        chance.fill_bytes(bytes);
        Some(())
    });
    matches!(filled, Ok(Some(())))
}

// SAFETY: signature and promises are those of the C library's function.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    // SAFETY: the caller's promise to the C library's function.
    unsafe {
        if fill_from_seed(buffer, length) {
            return length.cast_signed();
        }
        real_syscall(libc::SYS_getrandom, buffer as c_long, length as c_long, c_long::from(flags), 0, 0, 0) as ssize_t
    }
}

// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, answer: *mut timespec) -> c_int {
    let is_time_of_day = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    let now = NOW.try_with(Cell::get).ok().flatten().filter(|_| is_time_of_day && !answer.is_null());
    // SAFETY: the caller's promise to the C library's function; checked for null.
    unsafe {
        if let Some(now) = now {
            let (seconds, nanos) = (now.as_secs().cast_signed(), i64::from(now.subsec_nanos()));
            answer.write(timespec { tv_sec: seconds, tv_nsec: nanos });
            return 0;
        }
        real_syscall(libc::SYS_clock_gettime, c_long::from(clock), answer as c_long, 0, 0, 0, 0) as c_int
    }
}

/// `ring` asks the kernel for random bytes with this one. Variable arguments of C that are
/// integers come where six fixed ones would; those that were not given are not looked at.
// SAFETY: as above.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    first: c_long,
    second: c_long,
    third: c_long,
    fourth: c_long,
    fifth: c_long,
    sixth: c_long,
) -> c_long {
    // SAFETY: the caller's promise to the C library's function.
    unsafe {
        if number == libc::SYS_getrandom && fill_from_seed(first as *mut c_void, second as size_t) {
            return second;
        }
        real_syscall(number, first, second, third, fourth, fifth, sixth)
    }
}

type Syscall = unsafe extern "C" fn(c_long, ...) -> c_long;

/// The C library's own `syscall`.
///
/// # Safety
/// As for that.
unsafe fn real_syscall(
    number: c_long,
    first: c_long,
    second: c_long,
    third: c_long,
    fourth: c_long,
    fifth: c_long,
    sixth: c_long,
) -> c_long {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let mut real = REAL.load(Ordering::Relaxed);
    // SAFETY: the next object that has a `syscall` is the C library, always loaded; a function
    // pointer is as large as an object pointer here, and not null once it was found.
    unsafe {
        if real.is_null() {
            let name: *const c_char = c"syscall".as_ptr();
            real = libc::dlsym(libc::RTLD_NEXT, name);
            if real.is_null() {
                libc::abort();
            }
            REAL.store(real, Ordering::Relaxed);
        }
        let real: Syscall = std::mem::transmute::<*mut c_void, Syscall>(real);
        real(number, first, second, third, fourth, fifth, sixth)
    }
}

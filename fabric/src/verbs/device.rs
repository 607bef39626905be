//! Devices and their limits.

use super::sys::{self, DeviceAttr, Library, PortAttr};
use crate::FabricError;
use rustix::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// The library, looked for once.
pub(crate) fn library() -> Result<&'static Library, FabricError> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    let found = LIBRARY.get_or_init(Library::load);
    found.as_ref().map_err(|e| {
        FabricError::local(
            "RDMA verbs",
            format!(
                "{e}: install {} and the device's driver (Debian, Ubuntu: apt install \
                 libibverbs1 ibverbs-providers; Fedora: dnf install libibverbs)",
                sys::SONAME
            ),
        )
    })
}

/// The error of the call before, an errno.
pub(crate) fn last_error() -> Errno {
    let e = std::io::Error::last_os_error();
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

/// What a call says that returns an errno, or -1 and sets it.
pub(crate) fn errno_of(returned: c_int) -> Errno {
    match returned {
        -1 => last_error(),
        n => Errno::from_raw_os_error(n.abs()),
    }
}

/// An open device. The connections of a process share it.
pub(crate) struct Device {
    pub(crate) library: &'static Library,
    context: NonNull<sys::Context>,
    name: String,
    limits: DeviceAttr,
}

// SAFETY: libibverbs's calls may be made from any thread, at the same time
// too (ibverbs is thread-safe by its specification; its objects lock
// themselves); the limits are not written after construction.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Opens the device called `name`, or gives the one that is open.
    /// Descriptors of a new one go to `floor` or above.
    pub(crate) fn open(name: &str, floor: Option<i32>) -> Result<Arc<Device>, FabricError> {
        static OPEN: Mutex<Option<HashMap<String, Weak<Device>>>> = Mutex::new(None);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_default();
        if let Some(device) = open.get(name).and_then(Weak::upgrade) {
            return Ok(device);
        }
        let device = Arc::new(Device::open_anew(name, floor)?);
        open.insert(name.to_owned(), Arc::downgrade(&device));
        Ok(device)
    }

    fn open_anew(name: &str, floor: Option<i32>) -> Result<Device, FabricError> {
        let library = library()?;
        let failed = |e: Errno| FabricError::local(&format!("RDMA device {name}"), cure(e));
        let context = open_by_name(library, name)?;
        let mut limits = DeviceAttr::zeroed();
        // SAFETY: the context was just opened; the structure is complete.
        let asked = unsafe { (library.ibv_query_device)(context.as_ptr(), &mut limits) };
        let device = Device {
            library,
            context,
            name: name.to_owned(),
            limits,
        };
        if asked != 0 {
            return Err(failed(errno_of(asked)));
        }
        if let Some(floor) = floor {
            device.raise(floor).map_err(failed)?;
        }
        Ok(device)
    }

    /// Moves the device's descriptors. They are public fields of an ABI that
    /// does not change, and the library reads them anew for every call.
    fn raise(&self, floor: i32) -> Result<(), Errno> {
        let context = self.context.as_ptr();
        // SAFETY: nobody else has seen this context yet.
        unsafe {
            raise_in_place(&mut (*context).cmd_fd, floor)?;
            raise_in_place(&mut (*context).async_fd, floor)
        }
    }

    pub(crate) fn context(&self) -> *mut sys::Context {
        self.context.as_ptr()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn limits(&self) -> &DeviceAttr {
        &self.limits
    }

    /// The most of something that is wanted, as far as the device has it.
    pub(crate) fn at_most(wanted: u32, limit: c_int) -> u32 {
        u32::try_from(limit).map_or(wanted, |limit| wanted.min(limit.max(1)))
    }

    /// An operation on this device that failed, with what cures it.
    pub(crate) fn failed(&self, what: &str, e: Errno) -> FabricError {
        FabricError::local(&format!("{what} on RDMA device {}", self.name), cure(e))
    }

    /// How a port is now.
    pub(crate) fn port(&self, number: u8) -> Result<PortAttr, FabricError> {
        let mut port = PortAttr::zeroed();
        // SAFETY: the context is open; the structure is complete.
        let asked =
            unsafe { (self.library.ibv_query_port)(self.context.as_ptr(), number, &mut port) };
        match asked {
            0 => Ok(port),
            e => Err(self.failed(&format!("asking about port {number}"), errno_of(e))),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: every object made on it holds an Arc of it.
        unsafe { (self.library.ibv_close_device)(self.context.as_ptr()) };
    }
}

/// Moves the descriptor in `fd` to the lowest free number from `floor` on.
pub(crate) fn raise_in_place(fd: &mut c_int, floor: i32) -> Result<(), Errno> {
    if *fd < 0 {
        return Ok(());
    }
    // SAFETY: open, as its owner keeps it in this field.
    let low = unsafe { BorrowedFd::borrow_raw(*fd) };
    let high: OwnedFd = rustix::io::fcntl_dupfd_cloexec(low, floor)?;
    // SAFETY: its owner closes the number in the field, from now on another.
    unsafe { rustix::io::close(*fd) };
    *fd = high.into_raw_fd();
    Ok(())
}

/// What to do about an error of the verbs.
fn cure(e: Errno) -> String {
    let cure = match e {
        Errno::NOMEM | Errno::AGAIN => {
            "out of memory that may be locked, or of the device's resources: raise the limit \
             (ulimit -l unlimited, LimitMEMLOCK=infinity in a systemd unit, or memlock in \
             /etc/security/limits.conf)"
        }
        Errno::ACCESS | Errno::PERM => {
            "no permission: be root, or let the group rdma have /dev/infiniband/uverbs*"
        }
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            "no such device: modprobe ib_uverbs, and see `ibv_devices`"
        }
        Errno::NOSYS => "no kernel support: modprobe ib_uverbs",
        _ => return e.to_string(),
    };
    format!("{e}: {cure}")
}

/// The names of all devices; none where the kernel has no support for them.
pub(crate) fn names() -> Result<Vec<String>, FabricError> {
    let mut names = Vec::new();
    with_list(library()?, |name, _| {
        names.push(name.to_owned());
        true
    });
    Ok(names)
}

fn open_by_name(library: &Library, name: &str) -> Result<NonNull<sys::Context>, FabricError> {
    let mut opened = None;
    with_list(library, |found, device| {
        if found == name {
            // SAFETY: from the list, which is freed after this.
            let context = unsafe { (library.ibv_open_device)(device) };
            opened = Some(NonNull::new(context).ok_or_else(last_error));
        }
        opened.is_none()
    });
    opened.unwrap_or(Err(Errno::NODEV)).map_err(|e| {
        let what = format!("opening RDMA device {name}");
        FabricError::local(&what, cure(e))
    })
}

/// Shows every device, with its name, while `more` wants another one.
fn with_list(library: &Library, mut more: impl FnMut(&str, *mut sys::Device) -> bool) {
    let mut count = 0;
    // SAFETY: takes where to store the number.
    let list = unsafe { (library.ibv_get_device_list)(&mut count) };
    if list.is_null() {
        return;
    }
    for n in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the list has `count` devices, whose names live as they do.
        let (device, name) = unsafe {
            let device = *list.add(n);
            (device, (library.ibv_get_device_name)(device))
        };
        if name.is_null() {
            continue;
        }
        // SAFETY: a string of the library's, as checked.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        if !more(&name, device) {
            break;
        }
    }
    // SAFETY: the list came from ibv_get_device_list.
    unsafe { (library.ibv_free_device_list)(list) };
}

//! Which host this is.

/// The kernel's boot id (random(4), `/proc/sys/kernel/random/boot_id`): equal
/// on two components exactly when they can share memory. Empty where procfs is
/// absent, which equals nobody's.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

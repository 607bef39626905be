//! Pure parts: no fabric, no clock.

pub mod ledger;
pub mod space;

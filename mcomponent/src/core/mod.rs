//! Pure parts: no fabric, no clock. What is here of a file ([`cached`]); who is promised what ([`ledger`]); what an
//! address space looks like and where its memory is ([`space`]).

pub mod cached;
pub mod ledger;
pub mod space;

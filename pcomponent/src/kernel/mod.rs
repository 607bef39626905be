//! stub for now
mod places;
pub use places::Places;
pub struct Shared;
impl Shared { pub fn new(_: &crate::boot::Boot, _: i32, _: &fabric::Credential, _: &fabric::Options, _: std::sync::Arc<Places>, _: fabric::Peer) -> Result<Shared,String> { Ok(Shared) } pub fn note_auxv(&self,_:Vec<u8>){} pub fn report(&self,_:&mut crate::stats::Stats){} pub fn before_exit(&self){} }
pub struct Kernel<'a>(&'a crate::task::Process, &'a crate::task::Task);
impl<'a> Kernel<'a> { pub fn new(p:&'a crate::task::Process,t:&'a crate::task::Task)->Self{Kernel(p,t)} }
impl abi_linux::Kernel for Kernel<'_> {}

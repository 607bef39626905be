//! Loading a program: ELF images and the first stack.

pub mod elf;
pub mod stack;

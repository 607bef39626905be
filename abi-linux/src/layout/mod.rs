//! The kernel's structures for x86-64, as bytes: encoded and decoded field by
//! field, padding spelled out, sizes checked against the kernel's headers.

mod structs;

pub use structs::*;

/// A structure with a fixed place for each byte.
pub trait Layout: Sized {
    /// Bytes.
    const SIZE: usize;
    /// Takes a value from the first `SIZE` bytes of `at`, and moves on.
    fn take(at: &mut &[u8]) -> Self;
    /// Appends the value's bytes to `to`.
    fn put(&self, to: &mut ByteSink<'_>);

    /// Decodes; bytes that are missing count as zeros.
    #[must_use]
    fn decode(bytes: &[u8]) -> Self {
        let mut rest = bytes;
        Self::take(&mut rest)
    }
    /// Encodes into the first `SIZE` bytes of `dst`.
    fn encode(&self, dst: &mut [u8]) {
        self.put(&mut ByteSink { dst, at: 0 });
    }
    /// Encodes into a vector.
    #[must_use]
    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::SIZE];
        self.encode(&mut bytes);
        bytes
    }
}

/// Where encoded bytes go; what does not fit is dropped.
#[derive(Debug)]
pub struct ByteSink<'a> {
    dst: &'a mut [u8],
    at: usize,
}

impl ByteSink<'_> {
    fn bytes(&mut self, src: &[u8]) {
        if let Some(to) = self.dst.get_mut(self.at..self.at + src.len()) {
            to.copy_from_slice(src);
        }
        self.at += src.len();
    }
}

macro_rules! scalar {
    ($($ty:ty),*) => {$(
        impl Layout for $ty {
            const SIZE: usize = std::mem::size_of::<$ty>();
            fn take(at: &mut &[u8]) -> Self {
                let mut bytes = [0; std::mem::size_of::<$ty>()];
                let n = at.len().min(bytes.len());
                bytes[..n].copy_from_slice(&at[..n]);
                *at = &at[n..];
                <$ty>::from_le_bytes(bytes)
            }
            fn put(&self, to: &mut ByteSink<'_>) {
                to.bytes(&self.to_le_bytes());
            }
        }
    )*};
}
scalar!(u8, u16, u32, u64, i32, i64);

impl<T: Layout, const N: usize> Layout for [T; N] {
    const SIZE: usize = T::SIZE * N;
    fn take(at: &mut &[u8]) -> Self {
        std::array::from_fn(|_| T::take(at))
    }
    fn put(&self, to: &mut ByteSink<'_>) {
        self.iter().for_each(|v| v.put(to));
    }
}

macro_rules! layout {
    ($($(#[$meta:meta])* $name:ident = $size:literal {
        $($field:ident: $ty:ty),* $(,)?
    })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $ty),* }

        impl crate::layout::Layout for $name {
            const SIZE: usize = $size;
            fn take(at: &mut &[u8]) -> Self {
                $name { $($field: <$ty as crate::layout::Layout>::take(at)),* }
            }
            fn put(&self, to: &mut crate::layout::ByteSink<'_>) {
                $(self.$field.put(to);)*
            }
        }

        impl Default for $name {
            fn default() -> Self {
                <$name as crate::layout::Layout>::decode(&[])
            }
        }

        const _: () = assert!($(<$ty as crate::layout::Layout>::SIZE +)* 0 == $size);
    )*};
}
pub(crate) use layout;

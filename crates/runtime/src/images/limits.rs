//! Size limits of images, whichever engine stores them.

/// Bounds on every image that comes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of an image, unpacked.
    pub max_bytes: u64,
    /// How many times larger than it was sent a layer may be once it is unpacked. Docker and Podman unpack by themselves
    /// and do not count this.
    pub max_ratio: u64,
}

impl Default for ImageLimits {
    fn default() -> ImageLimits {
        ImageLimits {
            max_bytes: 10 << 30,
            max_ratio: 200,
        }
    }
}

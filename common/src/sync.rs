//! Fences, by the one name that ring code may use.
//!
//! Ring words are published by Release stores and read by Acquire loads of the index word itself, so a tool can judge
//! them. The only place where that is not enough is the notification handshake (store own word, then read the peer's):
//! it needs a full fence on both sides.

/// The full fence of the event-suppression handshake. Each use names what it orders and its partner.
#[inline]
pub fn fence_handshake() {
    #[cfg(not(ironring_model))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    #[cfg(ironring_model)]
    model::fence();
}

/// The fence of a model: only a build with `--cfg ironring_model` has this.
#[cfg(ironring_model)]
pub mod model {
    use std::sync::RwLock;

    static FENCE: RwLock<fn()> = RwLock::new(nothing);

    /// What [`super::fence_handshake`] does from now on.
    pub fn set_fence(fence: fn()) {
        if let Ok(mut hook) = FENCE.write() {
            *hook = fence;
        }
    }

    pub(super) fn fence() {
        if let Ok(hook) = FENCE.read() {
            hook();
        }
    }

    fn nothing() {}
}

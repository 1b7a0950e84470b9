//! Fences, by the one name that ring code may use.
//!
//! Ring words are published by Release stores and read by Acquire loads of the index word itself, so a tool can judge
//! them. The only place where that is not enough is the notification handshake (store own word, then read the peer's):
//! it needs a full fence on both sides.

/// The full fence of the event-suppression handshake. Each use names what it orders and its partner.
#[inline]
pub fn fence_handshake() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

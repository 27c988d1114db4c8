//! stub
pub struct Slot;
pub struct Slots;

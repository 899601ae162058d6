//! The pure core: from a pod's spec and what is observed of it to what shall be done.
//!
//! Owns: the state machine of one pod ([`step`]), its status, the defaults and the validation of a
//! pod, variable expansion, quantities. Takes and gives values only: no I/O, no clock, no
//! randomness, no logging; the time comes in with each event.


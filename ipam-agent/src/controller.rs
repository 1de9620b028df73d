//! The binding of pods.

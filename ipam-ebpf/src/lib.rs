//! The TC programs.
#![no_std]

//! Running a program on a frame that is never sent (`BPF_PROG_TEST_RUN`).

use std::time::Duration;

use aya::{
    TestRun as _, TestRunOptions,
    programs::{ProgramError, SchedClassifier},
};

/// Size of `struct __sk_buff` (`linux/bpf.h`), and where the fields lie that a caller may set.
const SK_BUFF_LEN: usize = 192;
const IFINDEX: usize = 40;
const GSO_SIZE: usize = 176;

/// The kernel allows frames within one page.
const MAX_FRAME: usize = 4096;

/// A frame to run a program on.
#[derive(Clone, Copy, Debug)]
pub struct TestFrame<'a> {
    /// The frame from its Ethernet header, at least 14 bytes. Whether its destination is "this host" follows from
    /// its destination MAC and the interface's.
    pub bytes: &'a [u8],
    /// Index of the interface it comes in by, which must exist in this thread's network namespace.
    pub ifindex: u32,
    /// Bytes of payload in each segment that it will be cut into; 0: it stays whole.
    pub gso_size: u32,
    /// How often to run, for [`TestVerdict::duration`]. Each run sees the frame as the one before left it.
    pub repeat: u32,
}

/// What the program made of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestVerdict {
    /// A `TC_ACT_*` of `linux/pkt_cls.h`.
    pub action: u32,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
    /// Mean time of one run.
    pub duration: Duration,
}

impl TestFrame<'_> {
    pub(super) fn run(&self, program: &SchedClassifier) -> Result<TestVerdict, ProgramError> {
        let mut context = [0; SK_BUFF_LEN];
        for (offset, value) in [(IFINDEX, self.ifindex), (GSO_SIZE, self.gso_size)] {
            context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut bytes = vec![0; MAX_FRAME];
        let result = program.test_run(TestRunOptions {
            data_in: Some(self.bytes),
            data_out: Some(&mut bytes),
            ctx_in: Some(&context),
            repeat: self.repeat,
            ..TestRunOptions::default()
        })?;
        bytes.truncate(result.data_size_out as usize);
        Ok(TestVerdict { action: result.return_value, bytes, duration: result.duration })
    }
}

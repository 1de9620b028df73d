//! What older kernels lack, and the tests that are about nothing else. They do not run there, and are counted as not run.

/// Something that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// TCX hooks and their links (Linux 6.6).
    Tcx,
    /// Guards that the verifier itself puts in where a mispredicted branch could read what it must not (Linux 6.17).
    Guards,
}

impl Lack {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tcx, Self::Guards];

    /// What the tests are about, for the page of results.
    pub fn about(self) -> &'static str {
        match self {
            Self::Tcx => "TCX links (Linux 6.6); the tests of clsact filters are there for these kernels",
            Self::Guards => {
                "loading without CAP_PERFMON (Linux 6.17): older verifiers then refuse paths that only a mispredicted \
                 branch takes, so that the agent needs it there; `deploy/` gives it"
            }
        }
    }

    /// Those tests.
    pub fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Tcx => &[
                "adoption::a_device_that_comes_back_under_its_name_gets_a_program_of_its_own",
                "adoption::a_pin_that_is_no_map_is_refused_and_kept",
                "adoption::a_renamed_device_keeps_its_one_program",
                "adoption::a_second_agent_keeps_maps_and_replaces_programs",
                "adoption::a_stranger_under_the_name_of_a_link_is_refused",
                "clsact::a_crash_between_the_link_and_the_removal_of_the_filter_is_mended_by_the_next_start",
                "clsact::a_kernel_that_has_learnt_tcx_gets_links_for_filters_and_the_way_back_works_too",
            ],
            Self::Guards => &[
                "adoption::two_capabilities_are_enough",
                "clsact::this_kernel_is_probed_and_two_capabilities_are_enough",
            ],
        }
    }
}

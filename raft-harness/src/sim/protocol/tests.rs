//! A few seeds in every test run; the sweeps are a command of their own.

use crate::sim::marks::Marks;
use crate::sim::profile::Profile;

#[test]
fn seeds_hold_what_the_protocol_promises_in_most_of_the_states_it_can_be_in() {
    let mut marks = Marks::none();
    for seed in 0..40 {
        let report = Profile::Protocol.run(&Profile::Protocol.draw(seed), 0);
        if let Some(violation) = report.violation {
            panic!("seed {seed}: {violation}");
        }
        marks.merge(&report.marks);
    }
    // The rest takes a sweep; so few would mean that nobody looks any more.
    let report = marks.report(|mark| Profile::Protocol.concerns(mark));
    assert!(report.reached >= 60, "{report}");
}

#[test]
fn a_seed_run_twice_gives_one_history() {
    for seed in [1, 7, 19] {
        let case = Profile::Protocol.draw(seed);
        // Words for a person change nothing.
        let hashes = [0, 0, 50].map(|kept| Profile::Protocol.run(&case, kept).hash);
        assert_eq!(hashes[0], hashes[1], "seed {seed}");
        assert_eq!(hashes[0], hashes[2], "seed {seed}");
    }
}

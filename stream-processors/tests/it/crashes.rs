//! The process dies at each named point, twice in a row; nothing of it may show.

use chalkstream_stream_processors::crash::POINTS;

use crate::events::append_third;
use crate::support::{Installation, assert_same, ready};

#[tokio::test]
async fn a_crash_at_any_step_twice_in_a_row_leaves_the_views_of_an_undisturbed_run() {
    if !ready() {
        return;
    }
    let undisturbed = Installation::new();
    undisturbed
        .with_log(async |log| {
            for third in 0..3 {
                append_third(&*log, third).await;
            }
        })
        .await;
    undisturbed.must("fold", &[]);
    let expected = undisturbed.dump();
    for point in POINTS {
        let installation = Installation::new();
        installation.with_log(async |log| append_third(&*log, 0).await).await;
        assert!(installation.crash(point), "{point} was never reached");
        installation.with_log(async |log| append_third(&*log, 1).await).await;
        assert!(installation.crash(point), "{point} was not reached after a crash there");
        installation.with_log(async |log| append_third(&*log, 2).await).await;
        // A later passage too: in the middle of the work.
        let third = installation.crash(&format!("{point}:3"));
        installation.must("fold", &[]);
        assert_same(&installation.dump(), &expected, &format!("{point} (third crash: {third})"));
    }
}

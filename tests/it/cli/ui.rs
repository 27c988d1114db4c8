//! `jobber ui`: the way to the page.

use crate::harness::{Jobber, eventually, run};

#[tokio::test]
async fn the_page_is_opened_where_there_is_a_display_and_else_printed() {
    let mut j = Jobber::serve().start().await;
    let place = j.place().clone();
    let (server, page) = (j.base().to_owned(), format!("{}/ui/\n", j.base()));
    let opened = place.path().join("opened");
    place.job("xdg-open", &format!("#!/bin/sh\necho \"$1\" > {}\n", opened.display()));
    let path = format!("{}:/usr/bin:/bin", place.jobs_dir().display());
    let ui = async |args: &[&str], display: &str| {
        let vars = [("JOBBER_SERVER", &*server), ("PATH", &path), ("DISPLAY", display), ("WAYLAND_DISPLAY", "")];
        run(&[&["ui"], args].concat(), &vars, place.path(), "").await
    };
    for (args, display) in [(&["--print"][..], ":0"), (&[], "")] {
        let printed = ui(args, display).await;
        assert_eq!((printed.code, printed.stdout.as_str()), (0, page.as_str()), "{}", printed.stderr);
    }
    assert!(!opened.exists());
    let asked = ui(&[], ":0").await;
    assert_eq!((asked.code, asked.stdout.as_str()), (0, ""), "{}", asked.stderr);
    eventually("the browser", async || (std::fs::read_to_string(&opened).ok()? == page).then_some(())).await;
    j.stop().await;
    assert_eq!(ui(&[], ":0").await.code, 6, "there is nothing to be seen");
}

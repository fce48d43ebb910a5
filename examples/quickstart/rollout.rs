//! A new version goes to some users, then to more, by edits of the configuration file.

use tokio::time::Instant;

use crate::{
    Result,
    promise::Promise,
    script::Script,
    site::Site,
    users::{Census, USERS},
};

/// Where a slip of the hand is, as the refusal must say.
const SLIP: &str = "routes[0].rules[0].backends[1].weight";

impl Script<'_> {
    /// The canary gets a tenth of the users, then half of them; in between somebody slips.
    pub async fn roll_out(&self, site: &Site) -> Result<Vec<Promise>> {
        say!("10% of the users get the new version, by an edit of mesh.yaml");
        self.edit(site, "90", "10").await?;
        let tenth = self.traffic.users.census();
        // The refusal falls into the census, which it must not change.
        let refused = self.slip(site).await?;
        self.fill(&tenth).await;

        say!("50% of the users get it");
        // Calls that fall together with the change belong to neither.
        self.traffic.users.census();
        self.edit(site, "50", "50").await?;
        let half = self.traffic.users.census();
        self.fill(&half).await;
        let calls = tenth.calls().min(half.calls());
        let left = half.left_since(&tenth);
        Ok(vec![
            Promise::within("canary_10_percent", tenth.new_percent(), 10.0, 2.0),
            Promise::within("canary_50_percent", half.new_percent(), 50.0, 3.0),
            Promise::at_least("canary_calls_each", calls as f64, 1_000.0),
            Promise::at_most("users_who_left_canary", left as f64, 0.0),
            refused,
        ])
    }

    /// Writes other weights into the configuration file, and waits until they count.
    async fn edit(&self, site: &Site, stable: &str, canary: &str) -> Result<()> {
        let reloads = self.mesh.reloads();
        let applied = reloads.borrow().applied;
        site.route(stable, canary)?;
        let is_applied = || reloads.borrow().applied > applied;
        self.seconds_until(Instant::now(), is_applied).await;
        Ok(())
    }

    /// An edit with a mistake: it must be refused, with its place, and change nothing.
    async fn slip(&self, site: &Site) -> Result<Promise> {
        let (reloads, config) = (self.mesh.reloads(), self.mesh.config());
        let refused = reloads.borrow().refused;
        say!("a bad edit: `weight: 50%`");
        site.route("50", "50%")?;
        let is_refused = || reloads.borrow().refused > refused;
        self.seconds_until(Instant::now(), is_refused).await;
        let measured = match &reloads.borrow().error {
            _ if self.mesh.config() != config => "configuration-changed".to_owned(),
            Some(error) => error.path().to_owned(),
            None => "not-refused".to_owned(),
        };
        Ok(Promise::same("invalid_edit_refused_at", measured, SLIP))
    }

    /// Waits until as many calls were answered as there are users, who take turns.
    async fn fill(&self, census: &Census) {
        let is_full = || census.calls() >= u64::from(USERS);
        self.seconds_until(Instant::now(), is_full).await;
    }
}

//! `watari lab inspect`.

use watari_lab::{Label, OpenLab};

use crate::Outcome;

/// Show addresses, routes, neighbours and links of a node, a pod or the fabric.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    #[command(flatten)]
    place: super::Place,
    /// One JSON object instead of a page.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let lab = OpenLab::look(lab)?;
        let target = self.place.find(&lab)?;
        let page = watari_lab::inspect(&lab, &target)?;
        if self.json {
            println!("{}", page.to_json());
        } else {
            print!("{page}");
        }
        Ok(Outcome::Well)
    }
}

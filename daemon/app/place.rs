//! What moed knows of the place where it stands: devices and what they say. It outlives the model that asked for it, so that
//! an exchange of models forgets nothing.

use std::sync::Arc;

use crate::app::AbortOnDrop;
use crate::config::{self, Config};
use crate::home::Home;
use crate::model::manifest::Confidence;
use crate::pulse::{Life, Part, Pulse};
use crate::queue::own::House;
use crate::transport::mqtt;
use crate::transport::mqtt::listen::Sources;

/// The devices, and who listens to them.
pub(super) struct Place {
    home: Home,
    pulse: Arc<Pulse>,
    ears: Option<AbortOnDrop>,
}

impl Place {
    /// The devices that the config names; those that announce themselves come as they are heard.
    fn open(config: &Config, pulse: &Arc<Pulse>) -> Self {
        let (home, left_out) = Home::new(config.home.device.clone());
        if left_out > 0 {
            tracing::warn!(left_out, "devices without a name, with the name of another, or too many are left out");
        }
        let ears = listen(config, &home, pulse);
        Self { home, pulse: Arc::clone(pulse), ears }
    }

    /// Listens anew: the broker is another one.
    pub(super) fn listen(&mut self, config: &Config) {
        // The old connection goes first: both have the same name at the broker.
        self.ears = None;
        self.ears = listen(config, &self.home, &self.pulse);
    }

    /// What a model is told that was made to be told, and is this sure; `None` where it was not. `place` is opened where there
    /// is none yet.
    pub(super) fn house(
        place: &mut Option<Self>,
        config: &Config,
        own_tools: Option<Confidence>,
        pulse: &Arc<Pulse>,
    ) -> Option<House> {
        let Some(confidence) = own_tools else {
            if config.home != config::Home::default() {
                tracing::warn!("the model's manifest says no `own_tools`: what `[home]` holds is not used");
            }
            return None;
        };
        let home = place.get_or_insert_with(|| Self::open(config, pulse)).home.clone();
        Some(House { home, confidence })
    }
}

/// Hears what devices there are and what they say, where the config names somebody to listen to.
fn listen(config: &Config, home: &Home, pulse: &Arc<Pulse>) -> Option<AbortOnDrop> {
    let sources = Sources {
        homeassistant: config.home.homeassistant.clone(),
        zigbee2mqtt: config.home.zigbee2mqtt.clone(),
        devices: config.home.device.clone(),
    };
    if config.mqtt.url.is_empty() || sources.is_silent() {
        return None;
    }
    let (settings, node, home) = (config.mqtt.clone(), config.node.name.clone(), home.clone());
    let life = Life::begin(pulse, Part::Home);
    Some(AbortOnDrop(tokio::spawn(async move {
        if let Err(fault) = life.during(mqtt::listen::listen(settings, node, sources, home)).await {
            tracing::error!(%fault, "devices are not heard");
        }
    })))
}

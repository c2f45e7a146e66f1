//! What users do: deployments come, grow, shrink, change their image and go; Services come and go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::interface::{Api, DeleteOptions, PatchKind, Propagation, Target};
use api::json;
use api::names::{DEPLOYMENTS, PODS, SERVICES};
use api::object::Object;
use api::status::{Reason, Status};
use api::value::Value;
use base::Random;

use crate::node::POD_CPU;
use crate::visitor::{Visitor, one_of};

/// Names that are used again and again, so that things meet what was there before them.
const NAMES: [&str; 2] = ["ant", "bee"];
/// Images; nothing of the last one ever becomes ready.
const IMAGES: [&str; 3] = ["echo:v1", "echo:v2", "echo:bad"];
/// Deployments have at most so many replicas.
const REPLICAS: u64 = 5;
/// How long pods of some of them must be ready until they count.
const MIN_READY_SECONDS: i64 = 5;

/// What a user does; what is more rarely done is in [`visitor`](crate::visitor::ACTS).
pub const ACTS: [&str; 8] = [
    "create deployment",
    "scale",
    "set image",
    "delete deployment",
    "create service",
    "delete service",
    "delete in the foreground",
    "delete pod",
];

/// A user.
pub struct User {
    api: Arc<dyn Api>,
    random: Random,
    /// Whether the user also deletes pods.
    harsh: bool,
    visitor: Visitor,
    wishes: Mutex<BTreeMap<&'static str, Wish>>,
}

/// What a user was told about a deployment. Nothing is known of what no answer came to.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Whose.
    pub name: &'static str,
    /// Whether it is to be there.
    pub there: Option<bool>,
    /// How many pods it is to have.
    pub replicas: Option<i64>,
    /// Their image.
    pub image: Option<&'static str>,
}

impl User {
    /// A user who acts through `api`.
    pub fn new(api: Arc<dyn Api>, random: &Random, harsh: bool) -> Self {
        let visitor = Visitor::new(api.clone(), random);
        Self { api, random: random.clone(), harsh, visitor, wishes: Mutex::default() }
    }

    /// Does one thing; returns what it was. Its failing is the user's everyday life.
    pub async fn act(&self) -> String {
        let name = NAMES[self.random.below(NAMES.len() as u64) as usize];
        let [create, scale, set_image, delete, create_service, delete_service, delete_first, delete_pod] =
            ACTS;
        let (what, result) = match self.random.below(if self.harsh { 17 } else { 16 }) {
            0..=2 => (create, self.create(name).await),
            3..=4 => (scale, self.scale(name).await),
            5..=7 => {
                let image = IMAGES[self.random.below(IMAGES.len() as u64) as usize];
                (set_image, self.set_image(name, image).await)
            }
            8 => (delete, self.delete_deployment(name, Propagation::Background).await),
            9 => (create_service, self.create_service(name).await),
            10 => (delete_service, self.delete_service(name).await),
            11 => (delete_first, self.delete_deployment(name, Propagation::Foreground).await),
            12..=15 => self.visitor.act(name, self.harsh).await,
            _ => (delete_pod, self.delete_pod().await),
        };
        let outcome = result.err().map_or_else(|| "done".to_owned(), |status| status.message.clone());
        format!("{what} {name}: {outcome}")
    }

    /// Gives every deployment an image that works.
    pub async fn repair(&self) -> Result<(), Status> {
        for name in NAMES {
            match self.set_image(name, IMAGES[1]).await {
                Err(status) if status.reason != Reason::NotFound => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }

    /// What the user was told that there is now.
    pub fn wishes(&self) -> Vec<Wish> {
        self.known().values().cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<&'static str, Wish>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what an answer says. A refusal changes nothing; whatever else fails may have been done or not.
    fn learn<T>(
        &self,
        name: &'static str,
        answer: Result<T, Status>,
        done: impl FnOnce(&mut Wish, T),
    ) -> Result<(), Status> {
        let mut known = self.known();
        let wish = known.entry(name).or_insert_with(|| Wish { name, ..Wish::default() });
        match answer {
            Ok(answer) => {
                done(wish, answer);
                Ok(())
            }
            Err(status) => {
                let refused = [
                    Reason::Conflict,
                    Reason::TooManyRequests,
                    Reason::NotFound,
                    Reason::AlreadyExists,
                    Reason::Invalid,
                    Reason::Forbidden,
                ];
                if !refused.contains(&status.reason) {
                    *wish = Wish { name, ..Wish::default() };
                }
                Err(status)
            }
        }
    }

    fn replicas(&self) -> i64 {
        self.random.below(REPLICAS + 1) as i64
    }

    async fn create(&self, name: &'static str) -> Result<(), Status> {
        let replicas = self.replicas();
        let strategy = json!({
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxSurge": (one_of(&self.random, &["25%", "50%", "100%", "34%"], &[1, 2])),
                "maxUnavailable": (one_of(&self.random, &["0%", "25%", "50%", "34%"], &[0, 2]))
            }
        });
        let patience = i64::from(self.random.chance(1, 4)) * MIN_READY_SECONDS;
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "minReadySeconds": patience,
                "selector": {"matchLabels": {"app": name}},
                "strategy": strategy,
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{
                        "name": "c", "image": (IMAGES[0]), "resources": {"requests": {"cpu": POD_CPU}}
                    }]}
                }
            }
        });
        let answer = self.api.create(&DEPLOYMENTS, "default", &deployment).await;
        self.learn(name, answer, |wish, _| {
            *wish = Wish { name, there: Some(true), replicas: Some(replicas), image: Some(IMAGES[0]) };
        })
    }

    async fn scale(&self, name: &'static str) -> Result<(), Status> {
        let replicas = self.replicas();
        let answer = self.patch(name, json!({"spec": {"replicas": replicas}})).await;
        self.learn(name, answer, |wish, changed| {
            (wish.there, wish.replicas) = (Some(!changed.is_deleting()), Some(replicas));
        })
    }

    async fn set_image(&self, name: &'static str, image: &'static str) -> Result<(), Status> {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        let answer = self.patch(name, patch).await;
        self.learn(name, answer, |wish, changed| {
            (wish.there, wish.image) = (Some(!changed.is_deleting()), Some(image));
        })
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<Arc<Object>, Status> {
        let target = Target::new(&DEPLOYMENTS, "default", name);
        self.api.patch(target, PatchKind::StrategicMerge, &patch).await
    }

    async fn delete_deployment(&self, name: &'static str, propagation: Propagation) -> Result<(), Status> {
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let answer = self.api.delete(&DEPLOYMENTS, "default", name, options).await;
        self.learn(name, answer, |wish, _| *wish = Wish { name, there: Some(false), ..Wish::default() })
    }

    async fn create_service(&self, name: &str) -> Result<(), Status> {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}
        });
        if self.random.chance(1, 3) {
            service.set(&["spec", "clusterIP"], "None");
        } else {
            service.set(&["spec", "type"], "NodePort");
        }
        self.api.create(&SERVICES, "default", &service).await.map(drop)
    }

    async fn delete_service(&self, name: &str) -> Result<(), Status> {
        self.api.delete(&SERVICES, "default", name, DeleteOptions::default()).await.map(drop)
    }

    async fn delete_pod(&self) -> Result<(), Status> {
        let pods = self.api.list(&PODS, "default").await?.items;
        if pods.is_empty() {
            return Ok(());
        }
        let chosen = &pods[self.random.below(pods.len() as u64) as usize];
        self.api.delete(&PODS, "default", chosen.name(), DeleteOptions::default()).await.map(drop)
    }
}

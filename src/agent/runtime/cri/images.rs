//! Temporary.
use copepod_pod::Failure;
use copepod_cri::*;
use super::Cri;
use super::client::{call, within};
use super::config::{ImageFacts, ImageUser};
use crate::image::ImageRequest;

#[derive(Clone, Debug)]
pub(crate) struct OrdinaryImage { pub(crate) image: String, pub(crate) image_id: String, pub(crate) facts: ImageFacts }
#[derive(Clone, Debug)]
pub(crate) struct PullRequest { image: String }
impl PullRequest { pub(crate) fn new(request: ImageRequest<'_>) -> Self { Self { image: request.image.into() } } }
impl Cri {
    async fn image(&self, image: &str) -> Option<Image> {
        let mut c = self.0.client.images.clone();
        let limit = self.0.client.patience;
        let request = ImageStatusRequest { image: Some(ImageSpec { image: image.into(), ..Default::default() }), verbose: false };
        call("ImageStatus", limit, c.image_status(within(limit, request))).await.ok()?.image
    }
    pub(crate) async fn has_image(&self, image: &str) -> bool { self.image(image).await.is_some() }
    pub(crate) async fn prepare_image(&self, request: PullRequest) -> Result<OrdinaryImage, Failure> {
        match self.image(&request.image).await {
            Some(found) => Ok(OrdinaryImage {
                image: request.image.clone(),
                image_id: found.id.clone(),
                facts: ImageFacts { reference: found.id.clone(), runtime_handler: String::new(), user: ImageUser::of(&found) },
            }),
            None => Err(Failure { reason: "ErrImagePull".into(), message: "not here".into() }),
        }
    }
}

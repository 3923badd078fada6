//! What the model runs on: the CPU or a GPU. Chosen once, by a kernel that really ran, and never replaced.

use crate::engine::runtime;
use crate::fault::Fault;

/// A place where kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Cpu,
    Cuda,
}

impl Provider {
    /// Every provider, the fastest first.
    pub const ALL: [Self; 2] = [Self::Cuda, Self::Cpu];

    /// Its name in settings, manifests, answers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// ONNX Runtime's name for it.
    pub fn full_name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
        }
    }
}

/// What was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub provider: Provider,
    pub reason: String,
}

/// Chooses by the setting `engine.provider` (`auto`, `cpu`, `cuda`) and settles it for the process.
pub fn choose(setting: &str) -> Result<Choice, Fault> {
    let choice = decide(setting, &mut runtime::try_provider)?;
    runtime::settle_provider(choice.provider);
    Ok(choice)
}

/// The rule: a named provider must run a kernel or it is a fault; `auto` takes the first that does.
fn decide(setting: &str, run: &mut dyn FnMut(Provider) -> Result<(), String>) -> Result<Choice, Fault> {
    let mut refused: Vec<String> = Vec::new();
    for provider in Provider::ALL {
        if setting != "auto" && setting != provider.name() {
            continue;
        }
        match run(provider) {
            Ok(()) => {
                let ran = "a kernel ran on it";
                let reason = match (setting, refused.is_empty()) {
                    ("auto", false) => format!("{ran}; {}", refused.join("; ")),
                    ("auto", true) => format!("{ran}, and it is the first that is tried"),
                    _ => format!("named in the config, and {ran}"),
                };
                return Ok(Choice { provider, reason });
            }
            Err(why) => refused.push(format!("`{}` does not run here: {why}", provider.name())),
        }
    }
    let why = if refused.is_empty() { "no such provider is known".to_owned() } else { refused.join("; ") };
    Err(Fault::config(format!("`engine.provider` is `{setting}`: {why}")).hint(
        "install an ONNX Runtime with that provider and name it in `runtime.onnxruntime`, or set `engine.provider` to `auto`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(setting: &str, cuda: &Result<(), String>) -> Result<Choice, Fault> {
        decide(setting, &mut |provider| if provider == Provider::Cuda { cuda.clone() } else { Ok(()) })
    }

    #[test]
    fn auto_takes_the_first_that_runs_a_kernel_and_says_why_not_the_other() {
        let gone = || Err("no kernel image for this device".to_owned());
        let choice = with("auto", &gone()).unwrap();
        assert_eq!(choice.provider, Provider::Cpu);
        assert!(choice.reason.contains("`cuda` does not run here: no kernel image"), "{}", choice.reason);
        assert_eq!(with("auto", &Ok(())).unwrap().provider, Provider::Cuda);
        assert_eq!(with("cpu", &Ok(())).unwrap().provider, Provider::Cpu);
    }

    #[test]
    fn a_named_provider_that_is_missing_is_never_replaced() {
        let fault = with("cuda", &Err("built without `CUDAExecutionProvider`".to_owned())).unwrap_err();
        assert!(fault.message.contains("`engine.provider` is `cuda`"), "{fault}");
        assert!(fault.message.contains("built without `CUDAExecutionProvider`"), "{fault}");
        assert!(with("tpu", &Ok(())).unwrap_err().message.contains("no such provider"));
    }
}

//! Which traces are recorded, as `OTEL_TRACES_SAMPLER` says.

use opentelemetry::trace::{SpanContext, SpanKind, TraceId};
use opentelemetry_sdk::trace::{Sampler as ByTrace, SamplingDecision, ShouldSample as _};

use super::trace_settings::{InvalidVariable, Variables, invalid};

/// Which traces are recorded.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Of a span whose parent says nothing, or is not asked.
    root: ByTrace,
    /// The others are as their parents.
    by_parent: bool,
}

impl Sampler {
    /// What the variables say.
    ///
    /// # Errors
    /// When there is no such sampler, or no such ratio.
    pub(super) fn read(variable: Variables<'_>) -> Result<Self, InvalidVariable> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";
        let ratio = || match variable(RATIO) {
            None => Ok(1.0),
            Some(value) => match value.parse::<f64>() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
                _ => Err(invalid(RATIO, &value, "is no ratio; write a number from 0 to 1, such as 0.1")),
            },
        };
        let named = variable(NAME).unwrap_or_else(|| "parentbased_always_on".to_owned());
        let (by_parent, root) = named.strip_prefix("parentbased_").map_or((false, named.as_str()), |root| (true, root));
        let root = match root {
            "always_on" => ByTrace::AlwaysOn,
            "always_off" => ByTrace::AlwaysOff,
            "traceidratio" => ByTrace::TraceIdRatioBased(ratio()?),
            _ => {
                let known = "always_on, always_off, traceidratio, and the same behind parentbased_";
                return Err(invalid(NAME, &named, format!("is no sampler; known: {known}")));
            }
        };
        Ok(Sampler { root, by_parent })
    }

    /// Whether a span is recorded: one in that trace, under that parent if it has one.
    pub(super) fn wants(&self, parent: Option<&SpanContext>, trace: TraceId) -> bool {
        match parent.filter(|_| self.by_parent) {
            Some(parent) => parent.is_sampled(),
            None => {
                let sampled = self.root.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]);
                sampled.decision == SamplingDecision::RecordAndSample
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceState};

    use super::*;

    #[test]
    fn samplers_are_the_standards() {
        let context = |sampled| {
            let flags = TraceFlags::default().with_sampled(sampled);
            SpanContext::new(TraceId::from(1), SpanId::from(1), flags, true, TraceState::NONE)
        };
        let (yes, no) = (context(true), context(false));
        // A ratio looks at the trace's last eight bytes.
        let (low, high) = (TraceId::from(1), TraceId::from(u128::MAX));
        for (name, ratio, wanted) in [
            ("", "", [true, true, true, false]),
            ("always_on", "", [true, true, true, true]),
            ("always_off", "0.5", [false, false, false, false]),
            ("traceidratio", "0.5", [true, false, true, true]),
            ("parentbased_always_on", "", [true, true, true, false]),
            ("parentbased_always_off", "", [false, false, true, false]),
            ("parentbased_traceidratio", "0.5", [true, false, true, false]),
        ] {
            let said = |variable: &str| match variable {
                "OTEL_TRACES_SAMPLER" => Some(name).filter(|name| !name.is_empty()).map(str::to_owned),
                _ => Some(ratio.to_owned()),
            };
            let sampler = Sampler::read(&said).unwrap();
            let asked = [(None, low), (None, high), (Some(&yes), low), (Some(&no), low)];
            assert_eq!(asked.map(|(parent, trace)| sampler.wants(parent, trace)), wanted, "{name}");
        }
    }
}

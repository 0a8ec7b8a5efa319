//! What people wait for besides `run`: builds, images, and many containers at once.

use super::scenario::{Bed, Scenario};
use super::table::Measured;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::new("ps50", "`ps` with 50 containers", ["0.8", "-"], ps_of_50),
    Scenario::new("rm50", "`rm -f` of 50 running", ["0.4", "0.1"], rm_of_50),
    Scenario::new("build", "9-step build, `--no-cache`", ["0.6", "0.3"], build_anew),
    Scenario::new("cached", "9-step build, all cached", ["0.8", "0.4"], build_cached),
    Scenario::new("copy", "build with `COPY` of 100 MiB", ["0.8", "0.4"], build_copy),
    Scenario::new("load", "`load` of a 149 MB image, base present", ["0.8", "0.4"], load),
    Scenario::new("push", "first `push` of a 149 MB image", ["0.8", "0.4"], first_push),
    Scenario::new("pull", "`pull` of a 149 MB image", ["0.8", "0.4"], pull),
    Scenario::new("port", "PSS per published port", ["0 MiB", "0 MiB"], port_memory),
];

const CONTAINERS: usize = 50;
const PORTS: usize = 20;
const FIRST_PORT: usize = 20_000;
const REGISTRY: &str = "127.0.0.1:5000";
const REGISTRY_DEADLINE: Duration = Duration::from_secs(20);
/// Sizes of the image's layers in MB: a base, and what is copied onto it.
const BASE_MB: usize = 74;
const LAYERS_MB: [usize; 3] = [25, 25, 25];
const DOCKERFILE: &str = "FROM busybox
ARG V=1
ENV A=b
WORKDIR /app
COPY a.txt /app/
RUN echo one > 1
RUN echo two > 2
RUN mkdir d && echo three > d/3
CMD [\"cat\", \"/app/1\"]
";

fn run_many(bed: &Bed<'_>) -> Result<Vec<String>> {
    let names: Vec<String> = (0..CONTAINERS).map(|number| format!("m{number}")).collect();
    for name in &names {
        bed.docker(&["run", "-d", "--name", name, "busybox", "sleep", "1000"])?;
    }
    Ok(names)
}

fn ps_of_50(bed: &mut Bed<'_>) -> Result<Measured> {
    run_many(bed)?;
    Measured::median((0..20).map(|_| bed.timed(&["ps"])).collect::<Result<_>>()?, "ms")
}

fn rm_of_50(bed: &mut Bed<'_>) -> Result<Measured> {
    let mut values = Vec::new();
    for _ in 0..3 {
        let names = run_many(bed)?;
        let args: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
        values.push(bed.timed(&args)? / 1000.0);
    }
    Measured::median(values, "s")
}

fn nine_steps(bed: &Bed<'_>) -> Result<String> {
    let context = bed.scratch().join("nine-steps");
    fs::create_dir_all(&context)?;
    fs::write(context.join("a.txt"), "hello\n")?;
    fs::write(context.join("Dockerfile"), DOCKERFILE)?;
    Ok(context.to_string_lossy().into_owned())
}

fn build_anew(bed: &mut Bed<'_>) -> Result<Measured> {
    let context = nine_steps(bed)?;
    let args = ["build", "--no-cache", "-t", "nine", &context];
    bed.docker(&args)?;
    Measured::median((0..10).map(|_| bed.timed(&args)).collect::<Result<_>>()?, "ms")
}

fn build_cached(bed: &mut Bed<'_>) -> Result<Measured> {
    let context = nine_steps(bed)?;
    let args = ["build", "-t", "nine", &context];
    bed.docker(&args)?;
    Measured::median((0..20).map(|_| bed.timed(&args)).collect::<Result<_>>()?, "ms")
}

fn build_copy(bed: &mut Bed<'_>) -> Result<Measured> {
    let context = bed.scratch().join("copy");
    fs::create_dir_all(&context)?;
    let mut noise = Noise(11);
    let mut blob = BufWriter::new(File::create(context.join("blob"))?);
    (0..100).try_for_each(|_| blob.write_all(&noise.bytes(1 << 20)))?;
    blob.flush()?;
    fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY blob /blob\n")?;
    let context = context.to_string_lossy().into_owned();
    let args = ["build", "--no-cache", "-t", "big", &context];
    let values: Vec<f64> = (0..5).map(|_| bed.timed(&args).map(|ms| ms / 1000.0)).collect::<Result<_>>()?;
    bed.docker(&["rmi", "-f", "big"])?;
    Measured::median(values, "s")
}

fn load(bed: &mut Bed<'_>) -> Result<Measured> {
    let image = make_image(bed, 1)?;
    let tar = bed.scratch().join("saved.tar").to_string_lossy().into_owned();
    bed.docker(&["save", "-o", &tar, &image])?;
    let mut values = Vec::new();
    for _ in 0..5 {
        bed.docker(&["rmi", "-f", &image])?;
        values.push(bed.timed(&["load", "-q", "-i", &tar])? / 1000.0);
    }
    fs::remove_file(&tar)?;
    forget_image(bed, 1)?;
    Measured::median(values, "s")
}

fn first_push(bed: &mut Bed<'_>) -> Result<Measured> {
    let _registry = Registry::start(bed)?;
    let mut values = Vec::new();
    // Of images that share nothing, so that each push is a first one.
    for seed in 2..5 {
        let image = make_image(bed, seed)?;
        let name = format!("{REGISTRY}/{image}");
        bed.docker(&["tag", &image, &name])?;
        values.push(bed.timed(&["push", "-q", &name])? / 1000.0);
        bed.docker(&["rmi", "-f", &name])?;
        forget_image(bed, seed)?;
    }
    Measured::median(values, "s")
}

fn pull(bed: &mut Bed<'_>) -> Result<Measured> {
    let _registry = Registry::start(bed)?;
    let image = make_image(bed, 5)?;
    let name = format!("{REGISTRY}/{image}");
    bed.docker(&["tag", &image, &name])?;
    bed.docker(&["push", "-q", &name])?;
    forget_image(bed, 5)?;
    let mut values = Vec::new();
    for _ in 0..5 {
        bed.docker(&["rmi", "-f", &name])?;
        values.push(bed.timed(&["pull", "-q", &name])? / 1000.0);
    }
    bed.docker(&["rmi", "-f", &name])?;
    Measured::median(values, "s")
}

fn port_memory(bed: &mut Bed<'_>) -> Result<Measured> {
    let container = |port: Option<usize>| {
        let published = port.map(|port| format!("{port}:80"));
        let mut args = vec!["run", "-d"];
        args.extend(published.iter().flat_map(|published| ["-p", published.as_str()]));
        args.extend(["busybox", "sleep", "1000"]);
        bed.docker(&args).map(drop)
    };
    // The first ones make the daemon grow for good, which is not what a port costs.
    (0..PORTS).try_for_each(|_| container(None))?;
    let before = bed.memory_mib()?;
    (0..PORTS).try_for_each(|_| container(None))?;
    let plain = bed.memory_mib()?;
    (0..PORTS).try_for_each(|number| container(Some(FIRST_PORT + number)))?;
    let published = bed.memory_mib()?;
    Ok(Measured::once(((published - plain) - (plain - before)) / PORTS as f64, "MiB"))
}

/// An image of four layers, about half of which can be compressed; gives its name.
fn make_image(bed: &Bed<'_>, seed: u64) -> Result<String> {
    let (base, image) = (format!("base{seed}"), format!("image{seed}"));
    let mut noise = Noise(seed);
    let folder = bed.scratch().join(&image);
    fs::create_dir_all(folder.join("root"))?;
    write_half_noise(&folder.join("root/base"), BASE_MB, &mut noise)?;
    let tar = folder.join("base.tar");
    let made = Command::new("tar").arg("-C").arg(folder.join("root")).arg("-cf").arg(&tar).arg(".").status()?;
    ensure!(made.success(), "tar failed");
    bed.docker(&["import", &tar.to_string_lossy(), &base])?;
    fs::remove_file(&tar)?;
    fs::remove_dir_all(folder.join("root"))?;
    let mut dockerfile = format!("FROM {base}\n");
    for (number, size) in LAYERS_MB.iter().enumerate() {
        write_half_noise(&folder.join(number.to_string()), *size, &mut noise)?;
        dockerfile.push_str(&format!("COPY {number} /d/\n"));
    }
    fs::write(folder.join("Dockerfile"), dockerfile)?;
    bed.docker(&["build", "-q", "-t", &image, &folder.to_string_lossy()])?;
    fs::remove_dir_all(&folder)?;
    Ok(image)
}

fn forget_image(bed: &Bed<'_>, seed: u64) -> Result<()> {
    bed.docker(&["rmi", "-f", &format!("image{seed}"), &format!("base{seed}")]).map(drop)
}

fn write_half_noise(path: &Path, size_mb: usize, noise: &mut Noise) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for _ in 0..size_mb {
        file.write_all(&noise.bytes(500_000))?;
        file.write_all(&[0; 500_000])?;
    }
    Ok(file.flush()?)
}

/// Bytes that cannot be compressed, the same in every run.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_le_bytes());
        words.flatten().take(count).collect()
    }

    /// Splitmix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Debian's registry on the bed's loopback; ended, with what it keeps, when dropped.
struct Registry {
    process: Child,
    folder: PathBuf,
}

impl Registry {
    fn start(bed: &Bed<'_>) -> Result<Self> {
        let folder = bed.scratch().join("registry");
        fs::create_dir_all(&folder)?;
        let config = folder.join("config.yml");
        let data = folder.join("data");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {REGISTRY}}}\n",
                data.display()
            ),
        )?;
        let mut serve = Command::new("docker-registry");
        serve.arg("serve").arg(&config);
        let mut serve = bed.inside(&serve);
        let process = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let registry = Self { process: process.context("docker-registry")?, folder };
        let begin = Instant::now();
        let mut ask = Command::new("curl");
        ask.args(["-s", "-f", &format!("http://{REGISTRY}/v2/")]);
        while !bed.inside(&ask).output()?.status.success() {
            ensure!(begin.elapsed() < REGISTRY_DEADLINE, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

//! Between `fuzz/corpus/NAME.bin` and a folder with a file for each input.
//!
//! `corpus list` prints the targets; `corpus unpack NAME FOLDER` adds what is stored and the seeds to
//! a folder; `corpus pack NAME FOLDER BYTES` stores what a folder holds, the smallest inputs first, up
//! to so many bytes.

use std::error::Error;
use std::path::{Path, PathBuf};

use ramferry::fuzz::{TARGETS, named, seeds};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["list"] => {
            TARGETS
                .iter()
                .for_each(|target| println!("{}", target.name));
            Ok(())
        }
        ["unpack", name, folder] => unpack(name, Path::new(folder)),
        ["pack", name, folder, most] => pack(name, Path::new(folder), most.parse()?),
        _ => Err("usage: corpus list | unpack NAME FOLDER | pack NAME FOLDER BYTES".into()),
    }
}

fn unpack(name: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let target = named(name).ok_or_else(|| format!("'{name}' is not a target"))?;
    std::fs::create_dir_all(folder)?;
    let inputs = (target.seeds)().into_iter().chain(seeds::corpus(name)?);
    for (number, input) in inputs.enumerate() {
        std::fs::write(folder.join(format!("stored-{number:04}")), input)?;
    }
    Ok(())
}

fn pack(name: &str, folder: &Path, most: usize) -> Result<(), Box<dyn Error>> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        inputs.push(std::fs::read(entry?.path())?);
    }
    inputs.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    let (all, mut room) = (inputs.len(), most);
    inputs.retain(|input| {
        let fits = input.len() + 4 <= room;
        room -= if fits { input.len() + 4 } else { room };
        fits
    });
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    std::fs::create_dir_all(&path)?;
    let packed = seeds::packed(&inputs);
    std::fs::write(path.join(name).with_extension("bin"), &packed)?;
    println!(
        "{name}: {} of {all} inputs, {} bytes",
        inputs.len(),
        packed.len()
    );
    Ok(())
}

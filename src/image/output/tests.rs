use super::*;
use crate::page::{PAGE_SIZE, PageIndex, PageRange};

fn image(path: &Path, pages: u64, force: bool) -> Result<Output, ImageError> {
    let block = ("pc.ram".to_owned(), pages * PAGE_SIZE as u64);
    Output::image(path, &[block], force)
}

#[test]
fn an_output_that_is_not_committed_leaves_nothing_and_the_old_one_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    std::fs::write(&path, b"old").unwrap();
    assert!(matches!(
        image(&path, 4, false),
        Err(ImageError::OutputExists { .. })
    ));
    let output = image(&path, 4, true).unwrap();
    let page = [7; PAGE_SIZE];
    output.blocks()[0].place(PageIndex(1), &page).unwrap();
    drop(output);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_partial_file_in_use_is_left_alone_and_one_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let mut first = image(&path, 4, false).unwrap();
    assert!(matches!(
        image(&path, 4, false),
        Err(ImageError::OutputBusy { .. })
    ));
    first.commit().unwrap();
    drop(first);
    std::fs::write(folder.path().join("out.partial"), b"left behind").unwrap();
    image(&path, 4, true).unwrap().commit().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * 4096);
}

#[test]
fn cleared_pages_read_as_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let output = image(&folder.path().join("out"), 40, false).unwrap();
    let block = &output.blocks()[0];
    block.place(PageIndex(0), &[9; 40 * PAGE_SIZE]).unwrap();
    block.clear(PageRange::between(1, 39)).unwrap();
    let mut back = vec![1; 40 * PAGE_SIZE];
    block.read(PageIndex(0), &mut back).unwrap();
    assert!(
        back[PAGE_SIZE..39 * PAGE_SIZE]
            .iter()
            .all(|&byte| byte == 0)
    );
    assert!(back[39 * PAGE_SIZE..].iter().all(|&byte| byte == 9));
}
